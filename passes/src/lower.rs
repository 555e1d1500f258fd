//! Lowering to ONNX.

pub(crate) mod activation;
mod at_once;
mod bias;
mod dequantize;
mod folding;
pub(crate) mod functions;
pub(crate) mod layout;
mod native;
pub(crate) mod own;
mod portable;
pub(crate) mod signature;

pub use native::LowerNative;
pub use portable::LowerPortable;
