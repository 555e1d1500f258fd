//! Lowering to ONNX.

pub(crate) mod functions;
mod portable;

pub use portable::LowerPortable;
pub(crate) use portable::transpose_scales;
