//! Models and data written down by hand.

use std::io::{Cursor, Write};

use zip::ZipWriter;
use zqc::ir::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use zqc::ir::onnx::proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use zqc::ir::tensor::DataType;

pub fn string(text: &str) -> Option<String> {
    Some(text.to_string())
}

pub fn node(op_type: &str, name: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: string(op_type),
        name: string(name),
        input: inputs.iter().map(|input| input.to_string()).collect(),
        output: vec![output.to_string()],
        ..Default::default()
    }
}

/// A value of rank 2 or 3; `dims` are numbers or symbols.
pub fn info(name: &str, dtype: DataType, dims: &[&str]) -> ValueInfoProto {
    let dim = |text: &&str| {
        let symbol = || dimension::Value::DimParam(text.to_string());
        let value = text.parse().map_or_else(|_| symbol(), dimension::Value::DimValue);
        Dimension { value: Some(value), ..Default::default() }
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(dtype as i32), shape: Some(shape) };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: string(name),
        r#type: Some(TypeProto { value, ..Default::default() }),
        ..Default::default()
    }
}

/// A matrix of small numbers that follow no short pattern.
pub fn matrix(name: &str, rows: usize, columns: usize) -> TensorProto {
    let values = (0..rows * columns).map(|i| (i * 7919 % 1013) as f32 / 1013.0 - 0.5);
    TensorProto {
        name: string(name),
        data_type: Some(DataType::Float as i32),
        dims: vec![rows as i64, columns as i64],
        raw_data: Some(values.flat_map(f32::to_le_bytes).collect::<Vec<_>>().into()),
        ..Default::default()
    }
}

/// A vector of such numbers.
pub fn vector(name: &str, length: usize) -> TensorProto {
    TensorProto { dims: vec![length as i64], ..matrix(name, 1, length) }
}

pub fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(10),
        opset_import: vec![OperatorSetIdProto { version: Some(20), ..Default::default() }],
        graph: Some(graph),
        ..Default::default()
    }
}

/// `y = x w + shift` with a weight of 64 x 32, large enough to be quantized.
pub fn one_layer() -> ModelProto {
    model(GraphProto {
        name: string("one layer"),
        input: vec![
            info("x", DataType::Float, &["batch", "64"]),
            info("shift", DataType::Float, &["batch", "32"]),
        ],
        output: vec![info("y", DataType::Float, &["batch", "32"])],
        initializer: vec![matrix("w", 64, 32)],
        node: vec![
            node("MatMul", "/proj/MatMul", &["x", "w"], "xw"),
            node("Add", "sum", &["xw", "shift"], "y"),
        ],
        ..Default::default()
    })
}

/// The graph of [`one_layer`], changed.
pub fn one_layer_with(change: impl FnOnce(&mut GraphProto)) -> ModelProto {
    let mut proto = one_layer();
    change(proto.graph.as_mut().unwrap());
    proto
}

/// [`one_layer`], its result taken through the first of these functions.
pub fn one_layer_calling(functions: Vec<FunctionProto>) -> ModelProto {
    let mut proto = one_layer_with(|graph| {
        graph.node[1].output[0] = "z".to_string();
        let call = node(functions[0].name(), "call", &["z"], "y");
        graph.node.push(NodeProto { domain: functions[0].domain.clone(), ..call });
    });
    let version = Some(1);
    proto.opset_import.push(OperatorSetIdProto { domain: functions[0].domain.clone(), version });
    proto.functions = functions;
    proto
}

/// A function of one input that calls these operators, domain and type, one after the other.
pub fn function(domain: &str, name: &str, operators: &[(&str, &str)]) -> FunctionProto {
    let last = operators.len();
    let value = |at: usize| if at == last { "out".to_string() } else { format!("v{at}") };
    let nodes = operators.iter().enumerate().map(|(at, (domain, op_type))| NodeProto {
        domain: string(domain),
        ..node(op_type, "", &[&value(at)], &value(at + 1))
    });
    let imports = [("", 20), (domain, 1)];
    FunctionProto {
        domain: string(domain),
        name: string(name),
        input: vec![value(0)],
        output: vec![value(last)],
        node: nodes.collect(),
        opset_import: imports
            .map(|(domain, version)| OperatorSetIdProto { domain: string(domain), version: Some(version) })
            .to_vec(),
        ..Default::default()
    }
}

/// A language model of 100 tokens that looks at one token only.
pub fn hundred_tokens() -> ModelProto {
    model(GraphProto {
        name: string("hundred tokens"),
        input: vec![info("input_ids", DataType::Int64, &["batch", "tokens"])],
        output: vec![info("logits", DataType::Float, &["batch", "tokens", "100"])],
        initializer: vec![matrix("table", 100, 64), matrix("inner", 64, 64), matrix("head", 64, 100)],
        node: vec![
            node("Gather", "embedding", &["table", "input_ids"], "h"),
            node("MatMul", "/inner/MatMul", &["h", "inner"], "g"),
            node("MatMul", "/lm_head/MatMul", &["g", "head"], "logits"),
        ],
        ..Default::default()
    })
}

/// An `.npz` file of float arrays: name, dimensions; all values are 1.
pub fn npz(arrays: &[(&str, [usize; 2])]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, [rows, columns]) in arrays {
        archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
        let header = format!("{header:<117}\n");
        archive.write_all(b"\x93NUMPY\x01\x00").unwrap();
        archive.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        archive.write_all(header.as_bytes()).unwrap();
        archive.write_all(&1f32.to_le_bytes().repeat(rows * columns)).unwrap();
    }
    archive.finish().unwrap().into_inner()
}
