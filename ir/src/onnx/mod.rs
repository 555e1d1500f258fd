//! The ONNX front end and writer.

pub mod proto;
