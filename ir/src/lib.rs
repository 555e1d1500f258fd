//! The graph of zqc.

pub mod onnx;
