//! The nodes on a device.

use ort_sys::OrtKernelInfo;

use super::gpu::Gpu;
use super::{linear, quantize, table};
use crate::api::Api;
use crate::context::Context;
use crate::element::Element;
use crate::error::OpError;
use crate::function::Function;

/// A node on a device.
pub(crate) enum Node {
    Quantize(quantize::Quantize),
    Linear(Box<linear::Linear>),
    Head(Box<table::Head>),
    Gather(table::Gather),
}

impl Node {
    /// `declared` is the type of the output that the operator states, if it is one.
    ///
    /// # Safety
    /// `info` is what ONNX Runtime hands to the callback that this runs in.
    pub(crate) unsafe fn new(
        api: Api,
        info: *const OrtKernelInfo,
        function: Function,
        declared: Element,
    ) -> Result<Self, OpError> {
        // SAFETY: the caller's promise holds for all calls.
        unsafe {
            let gpu = Gpu::of(api.device(info)?)?;
            Ok(match function {
                Function::Quantize(_) => Self::Quantize(quantize::Quantize::new(gpu)),
                Function::Gather(kind) => Self::Gather(table::Gather::new(api, info, kind, declared, gpu)?),
                Function::Linear(signature) if signature.trans_b => {
                    Self::Head(Box::new(table::Head::new(api, info, signature, declared, gpu)?))
                }
                Function::Linear(signature) => {
                    Self::Linear(Box::new(linear::Linear::new(api, info, signature, declared, gpu)?))
                }
            })
        }
    }

    pub(crate) fn run(&self, context: &Context) -> Result<(), OpError> {
        match self {
            Self::Quantize(quantize) => quantize.run(context),
            Self::Linear(linear) => linear.run(context),
            Self::Head(head) => head.run(context),
            Self::Gather(gather) => gather.run(context),
        }
    }
}
