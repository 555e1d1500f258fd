//! Lowering to ONNX.

pub(crate) mod activation;
mod at_once;
mod bias;
pub(crate) mod callee;
mod dequantize;
mod dequantize_rows;
mod folding;
pub(crate) mod functions;
mod gather;
pub(crate) mod layout;
mod native;
pub(crate) mod own;
mod portable;
pub(crate) mod signature;

pub use native::LowerNative;
pub use portable::LowerPortable;
