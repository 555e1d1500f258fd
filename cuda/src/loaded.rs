//! A package on a device: what the handles of a model share.

mod activation;
mod kernels;
mod layer;

use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

use cudarc::driver::sys::{CUdeviceptr, CUstream};
use zqc_kernels::Package;

use crate::buffer::Buffer;
use crate::device::Device;
use crate::dispatch::Table;
use crate::error::Error;
use crate::input::RawInput;
use crate::model_id::ModelId;
use crate::pool::Pool;
use crate::scratch::{Held, Layout, Scratch, TokenShape};
use crate::variant::{Accumulation, DataType, LinearVariant, Prologue, Specialization};

use activation::LoadedActivation;
pub(crate) use layer::{LoadedLayer, RawOutput};

/// The weights, layers and kernels of a model.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Declared before the kernels, so that it is freed before they are unloaded: freeing waits for the device.
    _weights: Buffer,
    pub id: ModelId,
    pub device: Device,
    pub activations: Vec<LoadedActivation>,
    pub layers: Vec<LoadedLayer>,
    pub names: HashMap<String, usize>,
    pub widest: TokenShape,
    pool: Pool,
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
    pub fn load(device: &Device, package: &Package, accumulation: Accumulation) -> Result<Self, Error> {
        let table = Table::measured()?;
        let multiprocessors = device.multiprocessors()?;
        let _current = device.make_current()?;
        let weights = Buffer::copied_from(device, package.weights())?;
        let address = |array: zqc_kernels::Array| weights.address() + array.offset as CUdeviceptr;
        let manifest = package.manifest();
        let activations = manifest.activations.iter().map(|activation| {
            let down = activation.down.map_or(0, address);
            let shape = TokenShape { k: activation.k, rank: activation.rank };
            LoadedActivation::new(shape, down, table.quantize(activation.k))
        });
        let layers = package.layers().map(|packed| {
            let plan = table.linear(packed.manifest.n, packed.manifest.k, multiprocessors, accumulation);
            LoadedLayer::new(&packed, plan, accumulation, address)
        });
        let names = manifest.layers.iter().enumerate().map(|(index, layer)| (layer.name.clone(), index));
        let (activations, layers): (Vec<_>, Vec<_>) = (activations.collect(), layers.collect());
        let widest = TokenShape {
            k: activations.iter().map(|activation| activation.shape.k).max().unwrap_or(0),
            rank: activations.iter().map(|activation| activation.shape.rank).max().unwrap_or(0),
        };
        Ok(Self {
            _weights: weights,
            id: ModelId::unique(),
            device: device.clone(),
            activations,
            layers,
            names: names.collect(),
            widest,
            pool: Pool::default(),
        })
    }

    /// A scratch for up to `capacity` tokens of any layer.
    pub fn scratch(&self, capacity: usize) -> Result<Scratch, Error> {
        Scratch::new(self.id, &self.device, self.widest, capacity)
    }

    /// What the scratch holds, if it is an input of the layer.
    pub fn held(&self, layer: usize, scratch: &Scratch) -> Result<Held, Error> {
        self.check_owner(scratch)?;
        let layer = &self.layers[layer];
        let held = scratch.held().filter(|held| held.activation == layer.activation);
        held.ok_or_else(|| Error::NotQuantized { layer: layer.name.clone() })
    }

    fn check_owner(&self, scratch: &Scratch) -> Result<(), Error> {
        if scratch.model() == self.id { Ok(()) } else { Err(Error::OtherModel { what: "the scratch" }) }
    }

    /// Compiles and loads the kernels of up to `tokens` tokens.
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
        for activation in &self.activations {
            for tokens in activation.plan.up_to(tokens) {
                for &prologue in prologues {
                    activation.kernel(&self.device, tokens, Some(input), prologue)?;
                }
            }
        }
        self.layers.iter().try_for_each(|layer| {
            layer
                .plan
                .up_to(tokens)
                .try_for_each(|tokens| layer.kernel(&self.device, tokens, output).map(drop))
        })
    }

    /// The kernels of up to `tokens` tokens, each once.
    fn specializations(
        &self,
        tokens: usize,
        input: DataType,
        prologues: &[Prologue],
        output: DataType,
    ) -> Vec<Specialization> {
        let quantizations = self.activations.iter().flat_map(|activation| {
            activation.plan.up_to(tokens).flat_map(move |tokens| {
                prologues
                    .iter()
                    .map(move |&prologue| activation.specialization(tokens, Some(input), prologue))
            })
        });
        let linears = self
            .layers
            .iter()
            .flat_map(|layer| layer.plan.up_to(tokens).map(|tokens| layer.specialization(tokens, output)));
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

    /// Calls `work` with a scratch of the model for the tokens of `call`, which no other call uses meanwhile, to quantize the
    /// input of a layer and apply it.
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
        self.pool.with(stream, call.tokens, |capacity| self.scratch(capacity), work)
    }

    /// Loads the kernels of a call. Done before a scratch is taken: NVRTC takes seconds, for which other calls on the stream
    /// need not wait.
    pub fn load_kernels(&self, call: &ForwardCall) -> Result<(), Error> {
        let &ForwardCall { layer, tokens, input, prologue, output } = call;
        if tokens > 0 {
            let layer = &self.layers[layer];
            self.activations[layer.activation].kernel(&self.device, tokens, input, prologue)?;
            layer.kernel(&self.device, tokens, output)?;
        }
        Ok(())
    }

    /// Enqueues the quantization of `tokens` tokens on the stream.
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
        self.check_owner(scratch)?;
        scratch.hold(None);
        if tokens > scratch.capacity() {
            return Err(Error::TooManyTokens { tokens, capacity: scratch.capacity() });
        }
        let parts = scratch.parts();
        if tokens > 0 {
            // SAFETY: the scratch has room for the tokens; the caller vouches for the input and the stream.
            unsafe { self.activations[index].launch(&self.device, input, tokens, parts, stream) }?;
        }
        scratch.hold(Some(Held { activation: index, tokens, token_scales: parts.token_scales }));
        Ok(())
    }

    /// Enqueues a layer on the stream, for the input that the scratch holds.
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
        let held = self.held(index, scratch)?;
        // SAFETY: the scratch holds the layer's input; the caller vouches for the output and the stream.
        unsafe { self.layers[index].launch(&self.device, variant, held, scratch.parts(), output, stream) }
    }

    /// Enqueues the quantization of `tokens` tokens on the stream, into memory of the caller's.
    ///
    /// # Safety
    /// As of [`Loaded::quantize`]; `memory` is aligned as [`Layout::parts`] says and has the bytes of the activation's tokens, padded,
    /// until the kernel has run.
    pub unsafe fn quantize_into(
        &self,
        index: usize,
        input: RawInput,
        tokens: usize,
        memory: CUdeviceptr,
        stream: CUstream,
    ) -> Result<(), Error> {
        let activation = &self.activations[index];
        let parts = Layout::new(activation.shape, tokens)?.parts(memory);
        if tokens == 0 {
            return Ok(());
        }
        // SAFETY: the memory has room for the tokens; the caller vouches for the rest.
        unsafe { activation.launch(&self.device, input, tokens, parts, stream) }
    }

    /// Enqueues a layer on the stream, for what [`Loaded::quantize_into`] has put into the caller's memory.
    ///
    /// # Safety
    /// As of [`Loaded::apply`]; `memory` is what as many tokens of the layer's activation were quantized into, before this on the stream.
    pub unsafe fn apply_from(
        &self,
        index: usize,
        memory: CUdeviceptr,
        tokens: usize,
        output: RawOutput,
        stream: CUstream,
    ) -> Result<(), Error> {
        let layer = &self.layers[index];
        let activation = layer.activation;
        let parts = Layout::new(self.activations[activation].shape, tokens)?.parts(memory);
        let held = Held { activation, tokens, token_scales: parts.token_scales };
        // SAFETY: the memory holds the layer's input; the caller vouches for the rest.
        unsafe { layer.launch(&self.device, None, held, parts, output, stream) }
    }
}
