//! The textual form.

use zqc_ir::onnx::from_proto;
use zqc_ir::onnx::proto::attribute_proto::AttributeType;
use zqc_ir::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, TensorProto, ValueInfoProto,
};
use zqc_ir::op::attribute;
use zqc_ir::tensor::DataType;

use crate::protos::{floats, import, info, model, node, string, strings};

fn of_kind(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { r#type: Some(kind as i32), i: None, ..attribute::int(name, 0) }
}

fn branch(name: &str) -> GraphProto {
    GraphProto {
        name: string(name),
        node: vec![node("Neg", "", &["h"], &["negative"])],
        output: vec![ValueInfoProto { name: string("negative"), ..Default::default() }],
        ..Default::default()
    }
}

/// A graph with attributes of every kind, a body, a function and dimensions of every kind.
pub fn everything() -> ModelProto {
    let mut own = node("Own", "attributes", &["h", "", "scale"], &["a", ""]);
    own.domain = string("own");
    own.attribute = vec![
        attribute::int("int", -3),
        attribute::ints("ints", &[1, 2, 3]),
        attribute::ints("long", &(0..20).collect::<Vec<_>>()),
        attribute::float("float", 0.5),
        AttributeProto { floats: vec![1.0, 1e-6], ..of_kind("floats", AttributeType::Floats) },
        attribute::string("string", "a \"quoted\" text"),
        AttributeProto {
            strings: vec![b"x".to_vec(), vec![0xff]],
            ..of_kind("strings", AttributeType::Strings)
        },
        attribute::tensor("scalar", TensorProto { name: None, ..floats("", &[], &[2.5]) }),
        attribute::tensor("tensor", floats("", &[2], &[1.0, 2.0])),
        AttributeProto {
            graphs: vec![branch("one"), branch("two")],
            ..of_kind("graphs", AttributeType::Graphs)
        },
        of_kind("sparse", AttributeType::SparseTensor),
        of_kind("kind", AttributeType::TypeProto),
    ];
    let mut choice = node("If", "choice", &["flag"], &["y"]);
    for name in ["then_branch", "else_branch"] {
        choice
            .attribute
            .push(AttributeProto { g: Some(branch(name)), ..of_kind(name, AttributeType::Graph) });
    }
    let mut reference = node("Flatten", "", &["v"], &["w"]);
    reference.attribute.push(attribute::int_reference("axis", "axis"));
    ModelProto {
        producer_name: string("hand"),
        opset_import: vec![import(None, 20), import(Some("own"), 1)],
        functions: vec![FunctionProto {
            domain: string("own"),
            name: string("Flat"),
            input: strings(&["v"]),
            output: strings(&["w"]),
            attribute: strings(&["axis"]),
            node: vec![reference],
            ..Default::default()
        }],
        ..model(GraphProto {
            name: string("everything"),
            input: vec![info("x", DataType::Float16, "batch ? 8"), info("flag", DataType::Bool, "")],
            output: vec![info("y", DataType::Float, "batch seq 8"), info("a", DataType::Uint8, "2")],
            initializer: vec![floats("scale", &[1], &[0.25]), floats("unused", &[2, 2], &[0.0; 4])],
            node: vec![node("Cast", "", &["x"], &["h"]), own, choice],
            ..Default::default()
        })
    }
}

#[test]
fn a_graph_with_everything() {
    insta::assert_snapshot!(from_proto(everything()).unwrap().to_string());
}
