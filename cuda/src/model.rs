//! The layers of a package, on a device.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use zqc_kernels::Package;

use crate::device::Device;
use crate::element::Element;
use crate::error::Error;
use crate::input::Input;
use crate::loaded::{ForwardCall, Loaded, LoadedLayer, RawOutput};
use crate::model_id::ModelId;
use crate::scratch::Scratch;
use crate::variant::{Accumulation, DataType, LinearVariant, Prologue};

/// The layers of a package, on a device.
///
/// Layers that read the same value share its quantization: [`Model::quantize`] it once, then
/// [`Linear::apply`] each of them. [`Linear::forward`] does both for one layer.
///
/// They can be captured in a CUDA graph: call [`Model::prepare`] first, with the most tokens that will be captured. The
/// slices of a capture must be allocated with cudarc's event tracking off (`CudaContext::disable_event_tracking`), or
/// their events reach out of it. [`Linear::forward`] keeps a scratch for each stream, which graphs captured on the stream
/// share with it: replay them one after the other, and while no call is under way on it. Graphs that run side by side are
/// captured on streams of their own, or with [`Scratch`]es of yours.
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
    pub(crate) model: Arc<Loaded>,
    pub(crate) index: usize,
}

impl Model {
    /// Copies a package's arrays to the device. Kernels are compiled when they are first needed, or by
    /// [`Model::prepare`]; they add products up as `accumulation` says.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn load(device: &Device, package: &Package, accumulation: Accumulation) -> Result<Self, Error> {
        Ok(Self(Arc::new(Loaded::load(device, package, accumulation)?)))
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
        self.0.scratch(capacity)
    }

    /// Compiles and loads every kernel that calls of up to `tokens` tokens need: inputs of one type after each of the
    /// `prologues`, outputs of another. No such call compiles anything then. The first time on a machine this takes
    /// seconds; then the kernels come from the cache on disk.
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
        self.0.prepare(tokens, input, prologues, output)
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
        check_stream(&self.0, stream)?;
        if activation.model != self.0.id {
            return Err(Error::OtherModel { what: "the activation" });
        }
        let index = activation.index;
        let k = self.0.activations[index].shape.k;
        input.check(k, tokens)?;
        input.with_addresses(stream, k, |raw| {
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
        check_stream(&self.model, stream)?;
        self.check_output(tokens, y.len())?;
        let call = ForwardCall {
            layer: self.index,
            tokens,
            input: Some(T::TYPE),
            prologue: Prologue::None,
            output: U::TYPE,
        };
        self.model.with_scratch(&call, stream.cu_stream(), |scratch| {
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
        check_stream(&self.model, stream)?;
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

fn check_stream(model: &Loaded, stream: &CudaStream) -> Result<(), Error> {
    let is_ours = stream.context().cu_ctx() == model.device.context().cu_ctx();
    if is_ours { Ok(()) } else { Err(Error::OtherDevice) }
}
