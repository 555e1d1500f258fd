//! Another implementation of protobuf and ONNX's schema reads what we write.

use onnx_protobuf::{GraphProto, ModelProto, type_proto};
use protobuf::Message;
use zqc_ir::onnx::{Storage, read, write};
use zqc_ir::{Graph, Model, ValueId};

use crate::protos::tiny;

/// The bundled model, and what the other decoder sees once we have written it.
fn written() -> (Model, ModelProto) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.onnx");
    let model = read(&tiny()).unwrap();
    write(&model, &copy, Storage::Inline).unwrap();
    (model, ModelProto::parse_from_bytes(&std::fs::read(copy).unwrap()).unwrap())
}

fn names(graph: &Graph, values: &[Option<ValueId>]) -> Vec<String> {
    values.iter().map(|value| value.map_or(String::new(), |id| graph.value(id).name.clone())).collect()
}

#[test]
fn it_sees_the_same_nodes() {
    let (model, proto) = written();
    let graph = &model.graph;
    assert_eq!(proto.graph.node.len(), graph.nodes().count());
    for (id, seen) in graph.order().unwrap().into_iter().zip(&proto.graph.node) {
        let node = graph.node(id);
        assert_eq!((&seen.name, seen.op_type.as_str()), (&node.name, node.op.kind()));
        assert_eq!(seen.input, names(graph, node.inputs()), "{}", node.name);
        assert_eq!(seen.output, names(graph, node.outputs()), "{}", node.name);
    }
}

#[test]
fn it_sees_the_same_constants() {
    let (model, proto) = written();
    assert_eq!(proto.graph.initializer.len(), model.graph.initializers().count());
    for ((id, tensor), seen) in model.graph.initializers().zip(&proto.graph.initializer) {
        assert_eq!(seen.name, model.graph.value(id).name);
        assert_eq!((seen.data_type, &*seen.dims), (tensor.dtype().unwrap() as i32, tensor.dims()));
        assert!(*seen.raw_data == *tensor.bytes().unwrap(), "{}", seen.name);
    }
}

#[test]
fn it_sees_the_same_inputs_outputs_and_versions() {
    let (model, proto) = written();
    let GraphProto { input, output, .. } = proto.graph.unwrap();
    for (ids, seen) in [(model.graph.inputs(), input), (model.graph.outputs(), output)] {
        assert_eq!(ids.len(), seen.len());
        for (&id, info) in ids.iter().zip(&seen) {
            let Some(type_proto::Value::TensorType(tensor)) = &info.type_.value else {
                panic!("{} is no tensor", info.name)
            };
            let value = model.graph.value(id);
            assert_eq!(
                (&info.name, tensor.elem_type),
                (&value.name, model.graph.ty(id).dtype.unwrap() as i32)
            );
        }
    }
    assert_eq!((proto.ir_version, proto.opset_import[0].version), (10, model.opset()));
}
