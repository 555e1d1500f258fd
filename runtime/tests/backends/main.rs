//! Small models made by hand run the same in every back end.

use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, type_proto,
};
use zqc_runtime::{Array, ArrayData, Backend, BackendError, Subgraph, backend};

/// What must hold in a back end holds in rten, and in ONNX Runtime where that is.
macro_rules! in_every_backend {
    ($($name:ident)*) => {
        mod in_rten {
            $(#[test]
            fn $name() {
                super::$name(&*super::load("rten"));
            })*
        }
        mod in_onnxruntime {
            $(#[test]
            #[ignore = "needs Python with ONNX Runtime: tests/run"]
            fn $name() {
                super::$name(&*super::load("ort"));
            })*
        }
    };
}

fn load(name: &str) -> Box<dyn Backend> {
    backend(name, Some(1)).unwrap_or_else(|error| panic!("{error}"))
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn node(op_type: &str, input: &[&str], output: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.into()),
        input: strings(input),
        output: strings(output),
        ..Default::default()
    }
}

fn value(name: &str, data_type: DataType) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(data_type as i32), shape: None };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(r#type), ..Default::default() }
}

fn tensor(name: &str, data_type: DataType, dims: &[i64], bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(data_type as i32),
        dims: dims.to_vec(),
        raw_data: Some(bytes.into()),
        ..Default::default()
    }
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

fn subgraph(graph: GraphProto) -> Subgraph {
    let graph = GraphProto { name: Some("g".into()), ..graph };
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset("", 17)],
        graph: Some(graph),
        ..Default::default()
    };
    Subgraph::from(model)
}

fn run(
    backend: &dyn Backend,
    subgraph: &Subgraph,
    feeds: &[(&str, &Array)],
    fetch: &str,
) -> Result<Array, BackendError> {
    Ok(backend.load(subgraph)?.run(feeds, &[fetch])?.remove(0))
}

/// `y = x w + b`.
fn linear(data_type: DataType, w: Vec<u8>, b: Vec<u8>) -> Subgraph {
    subgraph(GraphProto {
        input: vec![value("x", data_type)],
        output: vec![value("y", data_type)],
        initializer: vec![tensor("w", data_type, &[2, 2], w), tensor("b", data_type, &[2], b)],
        node: vec![node("MatMul", &["x", "w"], &["xw"]), node("Add", &["xw", "b"], &["y"])],
        ..Default::default()
    })
}

const W: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const B: [f32; 2] = [0.5, -0.5];

fn f32_bytes(elements: &[f32]) -> Vec<u8> {
    elements.iter().flat_map(|x| x.to_le_bytes()).collect()
}

mod failures;
mod functions;
mod operators;
mod values;
