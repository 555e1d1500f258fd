//! Lowering to ONNX.

pub(crate) mod activation;
mod bias;
mod dequantize;
pub(crate) mod functions;
pub(crate) mod layout;
mod native;
mod portable;
pub(crate) mod signature;

pub use native::LowerNative;
pub use portable::LowerPortable;
