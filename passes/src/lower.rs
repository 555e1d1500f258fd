//! Lowering to ONNX.

pub(crate) mod activation;
mod bias;
mod dequantize;
mod earlier;
mod folding;
pub(crate) mod functions;
pub(crate) mod layout;
mod native;
pub(crate) mod own;
mod portable;
pub(crate) mod signature;

pub use native::LowerNative;
pub use portable::LowerPortable;
