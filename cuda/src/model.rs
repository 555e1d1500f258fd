//! A package on a device: quantization of its activations and its linear layers.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::{CUdeviceptr, CUstream};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use zqc_kernels::{Geometry, Package};

use crate::compiler::Sources;
use crate::device::{Buffer, Device};
use crate::dispatch::{Plan, Table};
use crate::element::Element;
use crate::error::Error;
use crate::input::{Input, RawInput};
use crate::kernel::Kernel;
use crate::scratch::{Held, INNER_BYTES, Pool, Scratch, padded};
use crate::variant::{
    DataType, LinearKernel, LinearShape, LinearVariant, Prologue, QuantizeShape, QuantizeVariant,
    Specialization,
};

/// The layers of a package, on a device.
///
/// Layers that read the same value share its quantization: [`Model::quantize`] it once, then
/// [`Linear::apply`] each of them. [`Linear::forward`] does both for one layer.
///
/// Neither allocates nor synchronizes once the kernels are there, so both can be captured in a CUDA graph: call
/// [`Model::prepare`] first, with the number of tokens that will be captured. [`Linear::forward`] also allocates a
/// scratch when a stream first needs one; call it once before the capture, or hold a [`Scratch`] of your own.
///
/// A model may be used from several threads at once. A captured graph must not be replayed after the model that it was
/// captured from is dropped.
#[derive(Debug, Clone)]
pub struct Model(Arc<Loaded>);

/// A quantized activation of a model: what [`Model::quantize`] makes for the layers that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Activation {
    model: ModelId,
    index: usize,
}

impl Activation {
    /// Its place in the package's manifest.
    pub fn index(self) -> usize {
        self.index
    }
}

/// A linear layer of a model.
#[derive(Debug, Clone)]
pub struct Linear {
    model: Arc<Loaded>,
    index: usize,
}

/// Tells models of a process apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ModelId(u64);

/// What the handles of a model share.
#[derive(Debug)]
pub(crate) struct Loaded {
    id: ModelId,
    device: Device,
    sources: Sources,
    activations: Vec<LoadedActivation>,
    layers: Vec<LoadedLayer>,
    names: HashMap<String, usize>,
    pool: Pool,
    _weights: Buffer,
}

#[derive(Debug)]
struct LoadedActivation {
    k: usize,
    rank: usize,
    down: CUdeviceptr,
    plan: Plan<QuantizeVariant>,
    kernels: Kernels<{ Prologue::ALL.len() * DataType::ALL.len() }>,
}

#[derive(Debug)]
struct LoadedLayer {
    name: String,
    geometry: Geometry,
    table: [u64; 16],
    activation: usize,
    rank_offset: usize,
    weights: CUdeviceptr,
    row_scales: CUdeviceptr,
    bias: CUdeviceptr,
    plan: Plan<LinearVariant>,
    kernels: Kernels<{ DataType::ALL.len() }>,
}

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

impl Model {
    pub(crate) fn load(device: &Device, package: &Package) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let table = Table::measured()?;
        let sources = package.sources().iter().map(|source| (&*source.name, &*source.text)).collect();
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
        Ok(Self(Arc::new(Loaded {
            id: ModelId(NEXT.fetch_add(1, Ordering::Relaxed)),
            device: device.clone(),
            sources,
            activations: activations.collect(),
            layers: layers.collect(),
            names: names.collect(),
            pool: Pool::default(),
            _weights: weights,
        })))
    }

    /// The device that the model is on.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// The layers, in the order of the package.
    pub fn linears(&self) -> impl Iterator<Item = Linear> + '_ {
        (0..self.0.layers.len()).map(|index| Linear { model: self.0.clone(), index })
    }

    /// The layer of this name.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`] when there is none.
    pub fn linear(&self, name: &str) -> Result<Linear, Error> {
        let unknown = || Error::UnknownLayer { name: name.into() };
        let &index = self.0.names.get(name).ok_or_else(unknown)?;
        Ok(Linear { model: self.0.clone(), index })
    }

    pub(crate) fn linear_at(&self, index: usize) -> Option<Linear> {
        (index < self.0.layers.len()).then(|| Linear { model: self.0.clone(), index })
    }

    pub(crate) fn loaded(&self) -> &Loaded {
        &self.0
    }

    /// Room for a quantized input of up to `capacity` tokens, of any layer.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn scratch(&self, capacity: usize) -> Result<Scratch, Error> {
        Scratch::new(&self.0, capacity)
    }

    /// Compiles and loads every kernel that `tokens` tokens need: inputs of one type after each of the `prologues`,
    /// outputs of another. The first time on a machine this takes seconds; then the kernels come from the cache on
    /// disk.
    ///
    /// # Errors
    /// When a kernel does not compile or does not load.
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
        for activation in 0..self.0.activations.len() {
            for &prologue in prologues {
                self.0.quantize_kernel(activation, tokens, input, prologue)?;
            }
        }
        (0..self.0.layers.len()).try_for_each(|layer| self.0.linear_kernel(layer, tokens, output).map(drop))
    }

    /// Quantizes `tokens` rows into the scratch, on the stream, for all layers that read the activation. No tokens are
    /// no work.
    ///
    /// # Errors
    /// When the scratch is too small, a slice is of the wrong length, something belongs to another model or device, or
    /// the driver refuses.
    pub fn quantize<T: Element>(
        &self,
        activation: Activation,
        input: Input<'_, T>,
        tokens: usize,
        scratch: &mut Scratch,
        stream: &CudaStream,
    ) -> Result<(), Error> {
        self.0.check_stream(stream)?;
        let index = self.0.index_of(activation)?;
        input.check(self.0.activations[index].k, tokens)?;
        input.with_addresses(stream, self.0.activations[index].k, |raw| {
            // SAFETY: the slices have the lengths that the kernel reads, and are in use on the stream until it has run.
            unsafe { self.0.quantize(index, raw, tokens, scratch, stream.cu_stream()) }
        })
    }
}

impl Linear {
    /// The layer's path in the source model.
    pub fn name(&self) -> &str {
        &self.layer().name
    }

    /// Columns of the output.
    pub fn n(&self) -> usize {
        self.layer().geometry.n()
    }

    /// Columns of the input.
    pub fn k(&self) -> usize {
        self.layer().geometry.k()
    }

    /// What [`Model::quantize`] makes for this layer.
    pub fn activation(&self) -> Activation {
        Activation { model: self.model.id, index: self.layer().activation }
    }

    /// The variant that a number of tokens gets.
    pub fn variant(&self, tokens: usize) -> LinearVariant {
        let plan = &self.layer().plan;
        plan.variant(plan.index(tokens))
    }

    /// `y = x W^T + bias` for the input that the scratch holds. `y` is `[tokens][n]`.
    ///
    /// # Errors
    /// When the scratch holds no input of this layer, `y` is of the wrong length, or the driver refuses.
    pub fn apply<T: Element>(
        &self,
        scratch: &Scratch,
        y: &mut impl DevicePtrMut<T>,
        stream: &CudaStream,
    ) -> Result<(), Error> {
        self.apply_any(None, scratch, y, stream)
    }

    /// As [`Linear::apply`], with a variant of one's own choice: to measure which is best.
    ///
    /// # Errors
    /// As [`Linear::apply`]; [`Error::Variant`] when there is no such variant.
    pub fn apply_variant<T: Element>(
        &self,
        variant: LinearVariant,
        scratch: &Scratch,
        y: &mut impl DevicePtrMut<T>,
        stream: &CudaStream,
    ) -> Result<(), Error> {
        self.apply_any(Some(variant.check()?), scratch, y, stream)
    }

    /// Quantizes `tokens` rows of `x` and applies the layer: `x` is `[tokens][k]`, `y` is `[tokens][n]`.
    ///
    /// # Errors
    /// When a slice is of the wrong length, or the driver refuses.
    pub fn forward<T: Element, U: Element>(
        &self,
        x: &impl DevicePtr<T>,
        tokens: usize,
        stream: &CudaStream,
        y: &mut impl DevicePtrMut<U>,
    ) -> Result<(), Error> {
        let model = Model(self.model.clone());
        self.check_output(tokens, y.len())?;
        self.model.with_scratch(stream.cu_stream(), tokens, |scratch| {
            model.quantize(self.activation(), Input::plain(x), tokens, scratch, stream)?;
            self.apply(scratch, y, stream)
        })
    }

    fn apply_any<T: Element>(
        &self,
        variant: Option<LinearVariant>,
        scratch: &Scratch,
        y: &mut impl DevicePtrMut<T>,
        stream: &CudaStream,
    ) -> Result<(), Error> {
        self.model.check_stream(stream)?;
        let held = self.model.held(self.index, scratch)?;
        self.check_output(held.tokens, y.len())?;
        let (y, _in_use) = y.device_ptr_mut(stream);
        let output = RawOutput { y, stride: self.n(), data_type: T::TYPE };
        // SAFETY: `y` has the length that the kernel writes, and is in use on the stream until it has run.
        unsafe { self.model.apply(self.index, variant, scratch, output, stream.cu_stream()) }
    }

    fn check_output(&self, tokens: usize, actual: usize) -> Result<(), Error> {
        let expected = tokens.saturating_mul(self.n());
        if actual == expected { Ok(()) } else { Err(Error::Length { what: "y", expected, actual }) }
    }

    fn layer(&self) -> &LoadedLayer {
        &self.model.layers[self.index]
    }
}

impl Loaded {
    pub fn id(&self) -> ModelId {
        self.id
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn largest_k(&self) -> usize {
        self.activations.iter().map(|activation| activation.k).max().unwrap_or(0)
    }

    pub fn largest_rank(&self) -> usize {
        self.activations.iter().map(|activation| activation.rank).max().unwrap_or(0)
    }

    /// Calls `work` with a scratch that holds `tokens` and that no other stream uses.
    pub fn with_scratch<T>(
        &self,
        stream: CUstream,
        tokens: usize,
        work: impl FnOnce(&mut Scratch) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.pool.with(self, stream, tokens, work)
    }

    fn check_stream(&self, stream: &CudaStream) -> Result<(), Error> {
        if stream.context().cu_ctx() == self.device.context().cu_ctx() {
            Ok(())
        } else {
            Err(Error::OtherDevice)
        }
    }

    fn index_of(&self, activation: Activation) -> Result<usize, Error> {
        if activation.model == self.id {
            Ok(activation.index)
        } else {
            Err(Error::OtherModel { what: "the activation" })
        }
    }

    /// What the scratch holds, if it is an input of the layer.
    fn held(&self, layer: usize, scratch: &Scratch) -> Result<Held, Error> {
        if scratch.model() != self.id {
            return Err(Error::OtherModel { what: "the scratch" });
        }
        let layer = &self.layers[layer];
        let held = scratch.held().filter(|held| held.activation.index == layer.activation);
        held.ok_or_else(|| Error::NotQuantized { layer: layer.name.clone() })
    }

    fn quantize_kernel(
        &self,
        activation: usize,
        tokens: usize,
        input: DataType,
        prologue: Prologue,
    ) -> Result<&Arc<Kernel>, Error> {
        let LoadedActivation { k, rank, plan, kernels, .. } = &self.activations[activation];
        let place = plan.index(tokens);
        let kind = prologue as usize * DataType::ALL.len() + input as usize;
        self.once(&kernels[place][kind], || {
            Specialization::quantize(
                &QuantizeShape { k: *k, rank: *rank, input, prologue },
                plan.variant(place),
            )
        })
    }

    fn linear_kernel(&self, layer: usize, tokens: usize, output: DataType) -> Result<&Arc<Kernel>, Error> {
        let layer = &self.layers[layer];
        let place = layer.plan.index(tokens);
        self.once(&layer.kernels[place][output as usize], || {
            Specialization::linear(&layer.shape(output), layer.plan.variant(place))
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
        let kernel = self.device.kernel(&self.sources, name())?;
        Ok(cell.get_or_init(|| kernel))
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
        let held = Held { activation: Activation { model: self.id, index }, tokens };
        if tokens == 0 {
            scratch.hold(Some(held));
            return Ok(());
        }
        let kernel = self.quantize_kernel(index, tokens, input.data_type, input.prologue)?;
        let parts = scratch.parts();
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
        let clusters = tokens.div_ceil(kernel.shape().tokens as usize) as u32;
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
        let tokens = self.held(index, scratch)?.tokens;
        if tokens == 0 {
            return Ok(());
        }
        let layer = &self.layers[index];
        let chosen = match variant {
            None => self.linear_kernel(index, tokens, output.data_type)?,
            Some(variant) if variant.kernel == LinearKernel::Decode && tokens > 64 => {
                return Err(Error::Variant { reason: format!("decode for {tokens} tokens, at most 64") });
            }
            Some(variant) => {
                let name = Specialization::linear(&layer.shape(output.data_type), variant);
                &self.device.kernel(&self.sources, name)?
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
            argument(&parts.token_scales),
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

impl LoadedLayer {
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
fn argument<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}
