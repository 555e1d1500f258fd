//! The quantized activations of a loaded model.

use std::sync::Arc;

use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::kernels::KernelTable;
use crate::device::Device;
use crate::dispatch::Plan;
use crate::error::Error;
use crate::input::RawInput;
use crate::kernel::Kernel;
use crate::launch::{argument, launch};
use crate::scratch::{Parts, TokenShape, padded};
use crate::variant::{DataType, Prologue, QuantizeKernel, QuantizeShape, QuantizeVariant, Specialization};

/// Element types of inputs: the floats, and E4M3 codes.
const INPUTS: usize = DataType::ALL.len() + 1;

/// Up to this size clusters of the kernel for few tokens are persistent, too: each takes several tiles and keeps the low-rank factor in
/// shared memory. Larger ones balance better when each takes one tile.
const LARGEST_PERSISTENT_CLUSTER: u32 = 2;

/// A quantized activation, shared by the layers that read it.
#[derive(Debug)]
pub(crate) struct LoadedActivation {
    pub shape: TokenShape,
    /// The stacked `V` of the low-rank branches; 0 without one.
    down: CUdeviceptr,
    pub plan: Plan<QuantizeVariant>,
    kernels: KernelTable<{ Prologue::ALL.len() * INPUTS }>,
}

impl LoadedActivation {
    pub fn new(shape: TokenShape, down: CUdeviceptr, plan: Plan<QuantizeVariant>) -> Self {
        Self { shape, down, kernels: KernelTable::new(plan.len()), plan }
    }

    pub fn specialization(
        &self,
        tokens: usize,
        input: Option<DataType>,
        prologue: Prologue,
    ) -> Specialization {
        let shape = self.quantize_shape(input, prologue);
        Specialization::quantize(&shape, self.variant(tokens, &shape))
    }

    fn quantize_shape(&self, input: Option<DataType>, prologue: Prologue) -> QuantizeShape {
        let TokenShape { k, rank } = self.shape;
        QuantizeShape { k, rank, input, prologue }
    }

    /// The variant of the plan, or the nearest that has registers for values of this type.
    fn variant(&self, tokens: usize, shape: &QuantizeShape) -> QuantizeVariant {
        self.plan.variant(self.plan.index(tokens)).fitting(shape)
    }

    /// The kernel for `tokens` tokens; `input` is `None` for codes.
    pub fn kernel(
        &self,
        device: &Device,
        tokens: usize,
        input: Option<DataType>,
        prologue: Prologue,
    ) -> Result<&Arc<Kernel>, Error> {
        let element_type = input.map_or(INPUTS - 1, |input| input as usize);
        self.kernels.get(device, self.plan.index(tokens), prologue as usize * INPUTS + element_type, || {
            self.specialization(tokens, input, prologue)
        })
    }

    /// Launches the quantization of `tokens` tokens into the parts of a scratch.
    ///
    /// # Safety
    /// The input's addresses are valid for the rows that it describes and the scratch has room for the tokens, both until
    /// the kernel has run; the stream is of the device.
    pub unsafe fn launch(
        &self,
        device: &Device,
        input: RawInput,
        tokens: usize,
        parts: Parts,
        stream: CUstream,
    ) -> Result<(), Error> {
        let kernel = self.kernel(device, tokens, input.data_type, input.prologue)?;
        let RawInput { x, second, epsilon, .. } = input;
        let (x_stride, second_stride) = (input.x_stride as i64, input.second_stride as i64);
        let (m, m_pad) = (tokens as i32, padded(tokens) as i32);
        let mut arguments = [
            argument(&x),
            argument(&second),
            argument(&parts.codes),
            argument(&parts.token_scales),
            argument(&parts.inner),
            argument(&self.down),
            argument(&m),
            argument(&m_pad),
            argument(&x_stride),
            argument(&second_stride),
            argument(&epsilon),
        ];
        let tiles = tokens.div_ceil(kernel.shape().tokens as usize) as u32;
        let variant = self.variant(tokens, &self.quantize_shape(input.data_type, input.prologue));
        let is_persistent =
            variant.kernel == QuantizeKernel::Many || variant.cluster <= LARGEST_PERSISTENT_CLUSTER;
        let clusters = if is_persistent { tiles.min(kernel.resident_clusters()) } else { tiles };
        // SAFETY: the arguments are those of zqc_quantize; the rest is the caller's promise.
        unsafe { launch(device, kernel, clusters, stream, &mut arguments) }
    }
}
