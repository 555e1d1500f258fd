//! Fields that a newer schema has are not lost. The other protobuf implementation keeps them, so that it can compare.

use onnx_protobuf::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use protobuf::Message;
use zqc_ir::onnx::{Storage, read, read_bytes, to_bytes, write};
use zqc_ir::{Change, NewNode, Op, Patch};

use crate::protos::tiny;

/// A number that no message of the schema uses.
const NEWER: u32 = 1000;

fn extend<M: Message>(message: &mut M, content: &str) {
    let fields = message.mut_unknown_fields();
    fields.add_varint(NEWER, content.len() as u64);
    fields.add_length_delimited(NEWER + 1, content.as_bytes().to_vec());
    fields.add_fixed32(NEWER + 2, 7);
    fields.add_fixed64(NEWER + 3, 7);
}

fn extend_tensor(tensor: &mut TensorProto) {
    let name = tensor.name.clone();
    extend(tensor, &name);
}

fn extend_attribute(attribute: &mut AttributeProto) {
    attribute.t.as_mut().into_iter().for_each(extend_tensor);
    let name = attribute.name.clone();
    extend(attribute, &name);
}

/// The bundled model with fields of a newer schema in every kind of message.
fn newer() -> ModelProto {
    let mut model = ModelProto::parse_from_bytes(&std::fs::read(tiny()).unwrap()).unwrap();
    extend(&mut model, "model");
    model.opset_import.iter_mut().for_each(|import| extend(import, "opset"));
    let graph: &mut GraphProto = model.graph.as_mut().unwrap();
    extend(graph, "graph");
    graph.initializer.iter_mut().for_each(extend_tensor);
    for node in &mut graph.node {
        node.attribute.iter_mut().for_each(extend_attribute);
        let name = node.name.clone();
        extend(node, &name);
    }
    for info in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
        let name = info.name.clone();
        extend(info, &name);
        extend(info.type_.as_mut().unwrap(), "type");
        if info.type_.has_tensor_type() {
            let tensor = info.type_.as_mut().unwrap().mut_tensor_type();
            tensor.shape.as_mut().unwrap().dim.iter_mut().for_each(|dim| extend(dim, "dimension"));
        }
    }
    model
}

/// What is written after `patch`.
fn written(source: &ModelProto, patch: impl FnOnce(&zqc_ir::Graph) -> Patch) -> ModelProto {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("newer.onnx"), folder.path().join("copy.onnx"));
    std::fs::write(&path, source.write_to_bytes().unwrap()).unwrap();
    let mut model = read(&path).unwrap();
    patch(&model.graph).apply(&mut model).unwrap();
    write(&model, &copy, Storage::Auto).unwrap();
    ModelProto::parse_from_bytes(&std::fs::read(copy).unwrap()).unwrap()
}

#[test]
fn an_unchanged_model_keeps_them_all() {
    let source = newer();
    assert!(written(&source, |_| Patch::default()) == source, "the models differ");
    let bytes = to_bytes(&read_bytes(source.write_to_bytes().unwrap()).unwrap()).unwrap();
    assert!(ModelProto::parse_from_bytes(&bytes).unwrap() == source, "the models differ");
}

#[test]
fn a_changed_model_keeps_those_of_the_messages_that_are_left() {
    let source = newer();
    let changed = written(&source, |graph| {
        let (id, node) = graph.nodes().find(|(_, node)| node.op.as_standard("MatMul").is_some()).unwrap();
        let mut other = NewNode::restore(graph, node);
        other.op = Op::standard("Own", Vec::new());
        Patch {
            changes: vec![Change { remove: vec![id], add: vec![other], ..Change::new("test") }],
            ..Default::default()
        }
    });
    let mut expected = source.clone();
    let node =
        expected.graph.as_mut().unwrap().node.iter_mut().find(|node| node.op_type == "MatMul").unwrap();
    let other = NodeProto {
        op_type: "Own".to_string(),
        name: node.name.clone(),
        input: node.input.clone(),
        output: node.output.clone(),
        ..Default::default()
    };
    *node = other;
    assert!(changed == expected, "the models differ");
}

#[test]
fn weights_keep_them_when_they_move_to_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("newer.onnx"), folder.path().join("copy.onnx"));
    std::fs::write(&path, newer().write_to_bytes().unwrap()).unwrap();
    write(&read(&path).unwrap(), &copy, Storage::External).unwrap();
    let written = ModelProto::parse_from_bytes(&std::fs::read(&copy).unwrap()).unwrap();
    for tensor in &written.graph.initializer {
        assert!(tensor.unknown_fields().get(NEWER).is_some(), "{}", tensor.name);
    }
    assert!(read(&copy).is_ok());
}
