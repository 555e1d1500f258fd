//! The ONNX protobuf schema (IR 14, opset 28), generated from `proto/onnx.proto` by prost.
#![allow(missing_docs, clippy::all, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
