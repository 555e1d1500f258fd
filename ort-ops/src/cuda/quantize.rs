//! The operator that quantizes activations to E4M3.

use std::sync::Arc;

use crate::context::Context;
use crate::cuda::element;
use crate::cuda::gpu::{Gpu, stream};
use crate::element::Element;
use crate::error::OpError;

/// A node that quantizes an activation token by token. Its numbers are those of the CPU, to the bit.
pub(crate) struct Quantize {
    gpu: Arc<Gpu>,
}

impl Quantize {
    pub(super) fn new(gpu: Arc<Gpu>) -> Self {
        Self { gpu }
    }

    pub(super) fn run(&self, context: &Context) -> Result<(), OpError> {
        let x = context.view(0, "X")?;
        let Some((&k, tokens)) = x.dims.split_last().filter(|&(&k, _)| k > 0) else {
            return Err(x.unexpected("a tensor whose last dimension is not 0".to_string()));
        };
        let dims: Vec<usize> = tokens.iter().copied().chain([1]).collect();
        let codes = context.output_address(0, Element::E4M3, &x.dims)? as u64;
        let scales = context.output_address(1, Element::F32, &dims)? as u64;
        let input = (x.address as u64, element::data_type(x.element)?);
        let sizes = [tokens.iter().product(), k];
        // SAFETY: ONNX Runtime has given tensors of these dimensions and types on the device, and the stream that orders their use.
        unsafe { self.gpu.quantizer.quantize(input, sizes, codes, scales, stream(context)?) }?;
        Ok(())
    }
}
