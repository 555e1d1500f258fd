//! Models written down by hand, and the bundled one.

use std::path::{Path, PathBuf};

use zqc_ir::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use zqc_ir::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use zqc_ir::tensor::DataType;

/// The trained model in `examples/tiny`.
pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tiny/model.onnx")
}

pub fn string(text: &str) -> Option<String> {
    Some(text.to_string())
}

pub fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

pub fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: string(key), value: string(value) }
}

pub fn import(domain: Option<&str>, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: domain.map(str::to_string), version: Some(version) }
}

pub fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(10),
        opset_import: vec![import(None, 20)],
        graph: Some(graph),
        ..Default::default()
    }
}

pub fn node(op_type: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: string(op_type),
        name: string(name),
        input: strings(inputs),
        output: strings(outputs),
        ..Default::default()
    }
}

/// A tensor type; `dims` are numbers, symbols or `?`, blanks between them.
pub fn tensor_type(dtype: DataType, dims: &str) -> TypeProto {
    let dim = |text: &str| {
        let value = match text.parse() {
            Ok(size) => Some(dimension::Value::DimValue(size)),
            Err(_) if text == "?" => None,
            Err(_) => Some(dimension::Value::DimParam(text.to_string())),
        };
        Dimension { denotation: None, value }
    };
    let shape = Some(TensorShapeProto { dim: dims.split_whitespace().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(dtype as i32), shape };
    TypeProto { denotation: None, value: Some(type_proto::Value::TensorType(tensor)) }
}

pub fn info(name: &str, dtype: DataType, dims: &str) -> ValueInfoProto {
    ValueInfoProto { name: string(name), r#type: Some(tensor_type(dtype, dims)), ..Default::default() }
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: string(name),
        data_type: Some(DataType::Float as i32),
        dims: dims.to_vec(),
        raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>().into()),
        ..Default::default()
    }
}

/// `y = Relu(x w)`, with a weight of 32 x 16.
pub fn small() -> ModelProto {
    let weight: Vec<f32> = (0..512).map(|i| i as f32 / 512.0 - 0.5).collect();
    model(GraphProto {
        name: string("small"),
        input: vec![info("x", DataType::Float, "batch 32")],
        output: vec![info("y", DataType::Float, "batch 16")],
        initializer: vec![floats("w", &[32, 16], &weight)],
        node: vec![node("MatMul", "product", &["x", "w"], &["xw"]), node("Relu", "relu", &["xw"], &["y"])],
        ..Default::default()
    })
}
