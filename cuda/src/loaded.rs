//! What the handles of a model share: addresses on the device, and the kernels that work on them.

use std::collections::{HashMap, HashSet};
use std::ffi::c_void;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use cudarc::driver::sys::{CUdeviceptr, CUstream};
use zqc_kernels::{Geometry, Package};

use crate::device::{Buffer, Device};
use crate::dispatch::{Plan, Table};
use crate::error::Error;
use crate::input::RawInput;
use crate::kernel::Kernel;
use crate::pool::Pool;
use crate::scratch::{Held, INNER_BYTES, Scratch, padded};
use crate::variant::{
    DataType, LinearShape, LinearVariant, Prologue, QuantizeShape, QuantizeVariant, Specialization,
};

/// Tells models of a process apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ModelId(u64);

/// What the handles of a model share.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Before the kernels, so that it is freed before they are unloaded: freeing waits for the device.
    _weights: Buffer,
    pub id: ModelId,
    pub device: Device,
    pub activations: Vec<LoadedActivation>,
    pub layers: Vec<LoadedLayer>,
    pub names: HashMap<String, usize>,
    pool: Pool,
}

/// A quantized activation.
#[derive(Debug)]
pub(crate) struct LoadedActivation {
    pub k: usize,
    pub rank: usize,
    down: CUdeviceptr,
    plan: Plan<QuantizeVariant>,
    kernels: Kernels<{ Prologue::ALL.len() * INPUTS }>,
}

/// A layer; without a bias its address is 0.
#[derive(Debug)]
pub(crate) struct LoadedLayer {
    pub name: String,
    pub geometry: Geometry,
    pub activation: usize,
    pub plan: Plan<LinearVariant>,
    table: [u64; 16],
    rank_offset: usize,
    weights: CUdeviceptr,
    row_scales: CUdeviceptr,
    bias: CUdeviceptr,
    kernels: Kernels<{ DataType::ALL.len() }>,
}

/// Types of inputs: those of floats, and codes.
const INPUTS: usize = DataType::ALL.len() + 1;

/// The kernels in use, by their place in the plan and by element type.
type Kernels<const TYPES: usize> = Vec<[OnceLock<Arc<Kernel>>; TYPES]>;

fn no_kernels<const TYPES: usize>(places: usize) -> Kernels<TYPES> {
    (0..places).map(|_| std::array::from_fn(|_| OnceLock::new())).collect()
}

/// An output in device memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawOutput {
    pub y: CUdeviceptr,
    /// Elements from one token to the next.
    pub stride: usize,
    pub data_type: DataType,
}

/// Which kernels a forward call needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForwardCall {
    pub layer: usize,
    pub tokens: usize,
    /// `None` for codes.
    pub input: Option<DataType>,
    pub prologue: Prologue,
    pub output: DataType,
}

impl Loaded {
    pub fn load(device: &Device, package: &Package) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let table = Table::measured()?;
        let _current = device.make_current()?;
        let weights = Buffer::of(device, package.weights())?;
        let address = |array: zqc_kernels::Array| weights.address() + array.offset as CUdeviceptr;
        let manifest = package.manifest();
        let activations = manifest.activations.iter().map(|activation| {
            let plan = table.quantize(activation.k);
            LoadedActivation {
                k: activation.k,
                rank: activation.rank,
                down: activation.down.map_or(0, address),
                kernels: no_kernels(plan.len()),
                plan,
            }
        });
        let layers = package.layers().map(|packed| {
            let layer = packed.manifest;
            let plan = table.linear(layer.n, layer.k);
            LoadedLayer {
                name: layer.name.clone(),
                geometry: packed.geometry,
                table: layer.table.words(),
                activation: layer.activation,
                rank_offset: layer.rank_offset,
                weights: address(layer.weights),
                row_scales: address(layer.row_scales),
                bias: layer.bias.map_or(0, address),
                kernels: no_kernels(plan.len()),
                plan,
            }
        });
        let names = manifest.layers.iter().enumerate().map(|(index, layer)| (layer.name.clone(), index));
        let (activations, layers) = (activations.collect(), layers.collect());
        Ok(Self {
            _weights: weights,
            id: ModelId(NEXT.fetch_add(1, Ordering::Relaxed)),
            device: device.clone(),
            activations,
            layers,
            names: names.collect(),
            pool: Pool::default(),
        })
    }

    pub fn largest_k(&self) -> usize {
        self.activations.iter().map(|activation| activation.k).max().unwrap_or(0)
    }

    pub fn largest_rank(&self) -> usize {
        self.activations.iter().map(|activation| activation.rank).max().unwrap_or(0)
    }

    /// What the scratch holds, if it is an input of the layer.
    pub fn held(&self, layer: usize, scratch: &Scratch) -> Result<Held, Error> {
        if scratch.model() != self.id {
            return Err(Error::OtherModel { what: "the scratch" });
        }
        let layer = &self.layers[layer];
        let held = scratch.held().filter(|held| held.activation == layer.activation);
        held.ok_or_else(|| Error::NotQuantized { layer: layer.name.clone() })
    }

    /// Compiles and loads the kernels of a number of tokens.
    pub fn prepare(
        &self,
        tokens: usize,
        input: DataType,
        prologues: &[Prologue],
        output: DataType,
    ) -> Result<(), Error> {
        if tokens == 0 {
            return Ok(());
        }
        self.compile(self.specializations(tokens, input, prologues, output))?;
        for activation in 0..self.activations.len() {
            for &prologue in prologues {
                self.quantize_kernel(activation, tokens, Some(input), prologue)?;
            }
        }
        (0..self.layers.len()).try_for_each(|layer| self.linear_kernel(layer, tokens, output).map(drop))
    }

    /// The kernels of a number of tokens, each once.
    fn specializations(
        &self,
        tokens: usize,
        input: DataType,
        prologues: &[Prologue],
        output: DataType,
    ) -> Vec<Specialization> {
        let quantizations = self.activations.iter().flat_map(|activation| {
            prologues.iter().map(|&prologue| activation.specialization(tokens, Some(input), prologue))
        });
        let linears = self.layers.iter().map(|layer| layer.specialization(tokens, output));
        quantizations.chain(linears).collect::<HashSet<_>>().into_iter().collect()
    }

    /// Compiles and loads kernels, on all processors.
    fn compile(&self, kernels: Vec<Specialization>) -> Result<(), Error> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(kernels.len());
        let kernels = Mutex::new(kernels.into_iter());
        let next = || kernels.lock().unwrap_or_else(PoisonError::into_inner).next();
        let compile = || -> Result<(), Error> {
            while let Some(kernel) = next() {
                self.device.kernel(kernel)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(compile)).collect();
            let results =
                workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
            results.fold(Ok(()), Result::and)
        })
    }

    fn quantize_kernel(
        &self,
        activation: usize,
        tokens: usize,
        input: Option<DataType>,
        prologue: Prologue,
    ) -> Result<&Arc<Kernel>, Error> {
        let activation = &self.activations[activation];
        let kind = prologue as usize * INPUTS + input.map_or(INPUTS - 1, |input| input as usize);
        self.once(&activation.kernels[activation.plan.index(tokens)][kind], || {
            activation.specialization(tokens, input, prologue)
        })
    }

    fn linear_kernel(&self, layer: usize, tokens: usize, output: DataType) -> Result<&Arc<Kernel>, Error> {
        let layer = &self.layers[layer];
        self.once(&layer.kernels[layer.plan.index(tokens)][output as usize], || {
            layer.specialization(tokens, output)
        })
    }

    fn once<'a>(
        &self,
        cell: &'a OnceLock<Arc<Kernel>>,
        name: impl FnOnce() -> Specialization,
    ) -> Result<&'a Arc<Kernel>, Error> {
        if let Some(kernel) = cell.get() {
            return Ok(kernel);
        }
        let kernel = self.device.kernel(name())?;
        Ok(cell.get_or_init(|| kernel))
    }

    /// Calls `work` with a scratch of the model for `tokens` tokens that nobody else uses, to quantize the input of a layer and
    /// apply it.
    ///
    /// # Errors
    /// When a kernel does not compile or load, the device is out of memory, and those of `work`.
    pub fn with_scratch(
        &self,
        call: &ForwardCall,
        stream: CUstream,
        work: impl FnOnce(&mut Scratch) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.load_kernels(call)?;
        self.pool.with(stream, call.tokens, |capacity| Scratch::new(self, capacity), work)
    }

    /// Loads what a call needs, before a scratch is taken: NVRTC takes seconds, for which other calls on the stream need not wait.
    pub fn load_kernels(&self, call: &ForwardCall) -> Result<(), Error> {
        let &ForwardCall { layer, tokens, input, prologue, output } = call;
        if tokens > 0 {
            self.quantize_kernel(self.layers[layer].activation, tokens, input, prologue)?;
            self.linear_kernel(layer, tokens, output)?;
        }
        Ok(())
    }

    /// Puts the quantization on the stream.
    ///
    /// # Safety
    /// The input's addresses are valid for the rows that it describes until the kernel has run, and the stream is of
    /// the model's device.
    pub unsafe fn quantize(
        &self,
        index: usize,
        input: RawInput,
        tokens: usize,
        scratch: &mut Scratch,
        stream: CUstream,
    ) -> Result<(), Error> {
        if scratch.model() != self.id {
            return Err(Error::OtherModel { what: "the scratch" });
        }
        scratch.hold(None);
        if tokens > scratch.capacity() {
            return Err(Error::TooManyTokens { tokens, capacity: scratch.capacity() });
        }
        let parts = scratch.parts();
        let held = Held { activation: index, tokens, token_scales: parts.token_scales };
        if tokens == 0 {
            scratch.hold(Some(held));
            return Ok(());
        }
        let kernel = self.quantize_kernel(index, tokens, input.data_type, input.prologue)?;
        let RawInput { x, second, epsilon, .. } = input;
        let (x_stride, second_stride) = (input.x_stride as i64, input.second_stride as i64);
        let down = self.activations[index].down;
        let (m, m_pad) = (tokens as i32, padded(tokens) as i32);
        let mut arguments = [
            argument(&x),
            argument(&second),
            argument(&parts.codes),
            argument(&parts.token_scales),
            argument(&parts.inner),
            argument(&down),
            argument(&m),
            argument(&m_pad),
            argument(&x_stride),
            argument(&second_stride),
            argument(&epsilon),
        ];
        let tiles = tokens.div_ceil(kernel.shape().tokens as usize) as u32;
        // Small clusters stay and keep the low-rank factor; large ones are spread more evenly when each takes one tile.
        let clusters =
            if kernel.shape().cluster <= 2 { tiles.min(kernel.resident_clusters()) } else { tiles };
        let _current = self.device.make_current()?;
        // SAFETY: the arguments are those of zqc_quantize; the scratch is as large as the kernel writes; the caller
        // vouches for the input and the stream.
        unsafe { kernel.launch(clusters, stream, &mut arguments) }?;
        scratch.hold(Some(held));
        Ok(())
    }

    /// Puts a layer on the stream, for the input that the scratch holds.
    ///
    /// # Safety
    /// The output's address is valid for the rows that it describes until the kernel has run, and the stream is of the
    /// model's device.
    pub unsafe fn apply(
        &self,
        index: usize,
        variant: Option<LinearVariant>,
        scratch: &Scratch,
        output: RawOutput,
        stream: CUstream,
    ) -> Result<(), Error> {
        let Held { tokens, token_scales, .. } = self.held(index, scratch)?;
        if tokens == 0 {
            return Ok(());
        }
        let layer = &self.layers[index];
        let chosen = match variant {
            None => self.linear_kernel(index, tokens, output.data_type)?,
            Some(variant) if !variant.covers(tokens) => {
                let reason = format!("{} of {} tokens for {tokens}", variant.kernel, variant.tokens);
                return Err(Error::Variant { reason });
            }
            Some(variant) => {
                let name = Specialization::linear(&layer.shape(output.data_type), variant);
                &self.device.kernel(name)?
            }
        };
        let parts = scratch.parts();
        let inner = parts.inner + (layer.rank_offset * padded(tokens) * INNER_BYTES) as CUdeviceptr;
        let stride = output.stride as i64;
        let (m, m_pad) = (tokens as i32, padded(tokens) as i32);
        let mut arguments = [
            argument(&layer.weights),
            argument(&layer.row_scales),
            argument(&layer.bias),
            argument(&parts.codes),
            argument(&token_scales),
            argument(&inner),
            argument(&output.y),
            argument(&stride),
            argument(&m),
            argument(&m_pad),
        ];
        let shape = chosen.shape();
        let work = layer.geometry.n().div_ceil(shape.rows as usize) * tokens.div_ceil(shape.tokens as usize);
        let clusters = work.min(chosen.resident_clusters() as usize) as u32;
        let _current = self.device.make_current()?;
        // SAFETY: the arguments are those of zqc_linear; the arrays lie in the model's weights; the scratch holds the
        // layer's input; the caller vouches for the output and the stream.
        unsafe { chosen.launch(clusters, stream, &mut arguments) }
    }
}

impl LoadedActivation {
    fn specialization(&self, tokens: usize, input: Option<DataType>, prologue: Prologue) -> Specialization {
        let shape = QuantizeShape { k: self.k, rank: self.rank, input, prologue };
        Specialization::quantize(&shape, self.plan.variant(self.plan.index(tokens)))
    }
}

impl LoadedLayer {
    fn specialization(&self, tokens: usize, output: DataType) -> Specialization {
        Specialization::linear(&self.shape(output), self.plan.variant(self.plan.index(tokens)))
    }

    fn shape(&self, output: DataType) -> LinearShape {
        LinearShape {
            n: self.geometry.n(),
            k: self.geometry.k(),
            steps_per_block: self.geometry.steps_per_block(),
            rank: self.geometry.rank16(),
            table: self.table,
            output,
        }
    }
}

/// The address of a kernel's argument, which a launch only reads.
pub(crate) fn argument<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}
