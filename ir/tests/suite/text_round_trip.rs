//! Models to text and back.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use prost::Message;
use zqc_ir::onnx::proto::attribute_proto::AttributeType;
use zqc_ir::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto,
};
use zqc_ir::onnx::{from_proto, read, to_proto};
use zqc_ir::op::attribute;
use zqc_ir::tensor::{DataType, bits, name};
use zqc_ir::{Model, text};

use crate::protos::{floats, import, model, node, small, string, tensor_type};

/// Asserts that the text says all of `model`, and that a summary can be read too.
pub fn assert_text_keeps(model: &Model) {
    let exact = text::exact(model).unwrap();
    let read = text::parse(&exact).unwrap_or_else(|error| panic!("{error}\n{exact}"));
    let (mut expected, mut found) = (to_proto(model).unwrap(), to_proto(&read).unwrap());
    [&mut expected, &mut found].into_iter().for_each(normalize);
    // Encoded, so that NaN is equal to itself.
    assert!(expected.encode_to_vec() == found.encode_to_vec(), "{exact}\n{expected:#?}\n{found:#?}");
    assert_eq!(text::exact(&read).unwrap(), exact);
    let summary = model.to_string();
    let read: Model = summary.parse().unwrap_or_else(|error| panic!("{error}\n{summary}"));
    assert_eq!(read.to_string(), summary);
}

/// Moves all numbers to `raw_data`, as the text has no words for typed fields.
fn normalize(model: &mut ModelProto) {
    model.graph.iter_mut().for_each(normalize_graph);
    for function in &mut model.functions {
        function.attribute_proto.iter_mut().for_each(normalize_attribute);
        function.node.iter_mut().flat_map(|node| &mut node.attribute).for_each(normalize_attribute);
    }
}

fn normalize_graph(graph: &mut GraphProto) {
    graph.initializer.iter_mut().for_each(normalize_tensor);
    graph.node.iter_mut().flat_map(|node| &mut node.attribute).for_each(normalize_attribute);
}

fn normalize_attribute(attribute: &mut AttributeProto) {
    attribute.t.iter_mut().chain(&mut attribute.tensors).for_each(normalize_tensor);
    attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(normalize_graph);
}

fn normalize_tensor(tensor: &mut TensorProto) {
    if tensor.data_type == Some(DataType::String as i32) {
        return;
    }
    let graph = GraphProto { initializer: vec![tensor.clone()], ..Default::default() };
    let Ok(model) = from_proto(model(graph)) else { return };
    let bytes = model.graph.initializers().next().unwrap().1.bytes().unwrap().into_owned();
    *tensor = TensorProto {
        raw_data: Some(bytes.into()),
        float_data: Vec::new(),
        int32_data: Vec::new(),
        int64_data: Vec::new(),
        double_data: Vec::new(),
        uint64_data: Vec::new(),
        ..tensor.clone()
    };
}

#[test]
fn every_model_in_the_examples() {
    fn models(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                models(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "onnx") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    models(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples"), &mut found);
    assert!(!found.is_empty());
    found.iter().for_each(|path| assert_text_keeps(&read(path).unwrap()));
}

/// Every element type, with all bit patterns of a byte, one element, none, and many that are equal.
#[test]
fn constants_of_every_type() {
    for code in 1..=DataType::Float6e3m2 as i32 {
        let dtype = DataType::try_from(code).unwrap();
        let Some(bits) = bits(dtype) else { continue };
        let constant = |name: &str, elements: usize, byte: &dyn Fn(usize) -> u8| TensorProto {
            name: string(name),
            data_type: Some(code),
            dims: vec![elements as i64],
            raw_data: Some((0..(elements * bits).div_ceil(8)).map(byte).collect::<Vec<_>>().into()),
            ..Default::default()
        };
        let graph = GraphProto {
            initializer: vec![
                constant("none", 0, &|_| 0),
                constant("one", 1, &|_| 1),
                constant("few", 7, &|at| 1 - (at % 2) as u8),
                constant("all_bytes", 256 * 8, &|at| at as u8),
                constant("equal", 100, &|_| 0x40),
            ],
            ..Default::default()
        };
        let model = from_proto(model(graph)).unwrap();
        assert_text_keeps(&model);
        let text = text::exact(&model).unwrap();
        let name = name(dtype);
        assert!(text.contains(&format!("const %none: {name}[0] = dense<")), "{text}");
        assert_eq!(text.contains(&format!("%equal: {name}[100] = splat<")), bits % 8 == 0, "{text}");
    }
}

#[test]
fn floats_read_back_bit_for_bit() {
    let values = [0.1, -0.0, 1e-45, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, 16777216.0];
    let nan = f32::from_bits(0xffc1_2345);
    let mut own = node("Own", "", &[], &["y"]);
    own.attribute = vec![
        AttributeProto {
            floats: values.into_iter().chain([nan, f32::NAN]).collect(),
            r#type: Some(AttributeType::Floats as i32),
            ..AttributeProto { name: string("floats"), ..Default::default() }
        },
        attribute::float("nan", nan),
        attribute::float("infinite", f32::NEG_INFINITY),
    ];
    let graph = GraphProto {
        initializer: vec![floats("numbers", &[7], &values), floats("nan", &[2], &[nan, 1.0])],
        node: vec![own],
        output: vec![ValueInfoProto { name: string("y"), ..Default::default() }],
        ..Default::default()
    };
    let model = from_proto(model(graph)).unwrap();
    assert_text_keeps(&model);
    let text = text::exact(&model).unwrap();
    assert!(text.contains("dense<0.1, -0.0, 1e-45, 3.4028235e38, inf, -inf, 16777216.0>"), "{text}");
}

/// Attributes that are no value of the kind that they declare.
#[test]
fn odd_attributes_are_kept() {
    let named = |attribute: AttributeProto| AttributeProto { name: string("odd"), ..attribute };
    let kind = |kind: AttributeType| Some(kind as i32);
    let odd = [
        AttributeProto { r#type: None, i: Some(1), ..Default::default() },
        AttributeProto { r#type: None, ..Default::default() },
        AttributeProto { r#type: Some(99), i: Some(1), ..Default::default() },
        AttributeProto { r#type: Some(0), ..Default::default() },
        AttributeProto { r#type: kind(AttributeType::Int), ..Default::default() },
        AttributeProto {
            r#type: kind(AttributeType::Int),
            i: Some(1),
            f: Some(f32::NAN),
            ..Default::default()
        },
        AttributeProto { r#type: kind(AttributeType::Graph), ..Default::default() },
        AttributeProto { r#type: kind(AttributeType::SparseTensor), ..Default::default() },
        AttributeProto { r#type: kind(AttributeType::SparseTensors), ..Default::default() },
        AttributeProto { r#type: kind(AttributeType::Floats), ..Default::default() },
        AttributeProto { r#type: kind(AttributeType::Graphs), ..Default::default() },
        AttributeProto { r#type: kind(AttributeType::TypeProtos), ..Default::default() },
        AttributeProto { ref_attr_name: string("a b"), ..Default::default() },
        AttributeProto {
            ref_attr_name: string(""),
            r#type: kind(AttributeType::Strings),
            ..Default::default()
        },
        AttributeProto { ref_attr_name: string("x"), r#type: Some(77), ..Default::default() },
        AttributeProto {
            doc_string: string("why"),
            i: Some(3),
            r#type: kind(AttributeType::Int),
            ..Default::default()
        },
        AttributeProto {
            tp: Some(tensor_type(DataType::Float, "n ? 3")),
            r#type: kind(AttributeType::TypeProto),
            ..Default::default()
        },
        AttributeProto {
            tp: Some(TypeProto { denotation: string("IMAGE"), value: None }),
            r#type: kind(AttributeType::TypeProto),
            ..Default::default()
        },
        AttributeProto {
            t: Some(TensorProto { data_type: Some(55), ..Default::default() }),
            r#type: kind(AttributeType::Tensor),
            ..Default::default()
        },
        AttributeProto {
            t: Some(TensorProto {
                doc_string: string("doc"),
                data_location: Some(0),
                ..floats("", &[1], &[2.0])
            }),
            r#type: kind(AttributeType::Tensor),
            ..Default::default()
        },
    ];
    let mut own = node("Own", "odd", &[], &["y"]);
    own.attribute = odd.into_iter().map(named).chain([AttributeProto::default()]).collect();
    let mut nameless = node("", "", &[], &["z"]);
    (nameless.op_type, nameless.name) = (None, None);
    let graph = GraphProto {
        node: vec![own, nameless],
        output: vec![ValueInfoProto { name: string("y"), ..Default::default() }],
        ..Default::default()
    };
    assert_text_keeps(&from_proto(model(graph)).unwrap());
}

#[test]
fn words_of_the_language_are_names_too() {
    let words = [
        "const",
        "types",
        "node",
        "proto",
        "metadata",
        "_",
        "graph",
        "zqc.linear",
        "f32",
        "inf",
        "",
        "a b",
        "%",
        "//",
    ];
    let nodes = words.iter().enumerate().map(|(at, word)| {
        let mut node = node(word, word, &[], &[&format!("{word}{at}")]);
        node.domain = (at % 3 > 0).then(|| word.to_string());
        node.attribute = vec![attribute::string(word, word)];
        if at % 2 == 0 {
            node.output.clear();
        }
        node
    });
    let graph = GraphProto { name: string("proto"), node: nodes.collect(), ..Default::default() };
    let header = model(graph);
    let imports = words.iter().map(|word| import(Some(word), 1)).chain([import(None, 20)]);
    assert_text_keeps(&from_proto(ModelProto { opset_import: imports.collect(), ..header }).unwrap());
}

#[test]
fn a_function_calls_another_of_its_name() {
    let function = |overload: &str, op_type: &str, called: Option<&str>| FunctionProto {
        domain: string("user"),
        name: string("Linear"),
        overload: string(overload),
        input: vec!["a".to_string()],
        output: vec!["b".to_string()],
        opset_import: vec![import(Some("user"), 1), import(None, 20)],
        node: vec![NodeProto {
            domain: called.and(string("user")),
            overload: called.and_then(string),
            ..node(op_type, "", &["a"], &["b"])
        }],
        ..Default::default()
    };
    let functions = vec![function("f16", "Linear", Some("f32 exact")), function("f32 exact", "Relu", None)];
    let model = from_proto(ModelProto { functions, ..small() }).unwrap();
    assert_text_keeps(&model);
    let summary = model.to_string();
    for line in ["function user::Linear:f16(%a) -> (%b)", "%b = user::Linear:\"f32 exact\"(%a)"] {
        assert!(summary.contains(line), "{summary}");
    }
    let own = "model ir_version=10 imports(20) graph () -> () { %y = zqc.linear:f16(%x) }";
    let error = text::parse(own).unwrap_err().to_string();
    assert_eq!(error, "line 1, column 55: operators of ours have no overloads");
}

#[test]
fn a_summary_is_read_without_its_long_constants() {
    let text = from_proto(small()).unwrap().to_string();
    let model = text::parse(&text).unwrap();
    let (_, weight) = model.graph.initializers().next().unwrap();
    assert!(weight.is_opaque() && weight.dims() == [32, 16]);
    let error = to_proto(&model).unwrap_err().to_string();
    assert!(error.starts_with("constant \"w\" is opaque"), "{error}");
}

proptest! {
    #[test]
    fn generated_models_come_back(proto in crate::generated::models()) {
        assert_text_keeps(&from_proto(proto).unwrap());
    }
}
