//! Models of any names, attributes, types and constants.

use proptest::prelude::*;
use zqc_ir::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto,
    type_proto,
};
use zqc_ir::op::attribute;
use zqc_ir::tensor::{DataType, bits};

use crate::protos::{entry, import, info, model, strings, tensor_type};

/// Some text, often of characters that mean something.
fn odd_text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z/.]{0,6}",
        1 => r#"[%@"\\\n/ :{}<>,=é_-]{0,6}"#,
        1 => any::<String>(),
    ]
}

fn some<T: Clone + std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.4, value)
}

fn tensors() -> impl Strategy<Value = TensorProto> {
    let bytes = prop_oneof![prop::collection::vec(any::<u8>(), 0..40), Just(vec![0x3f; 32])];
    (1..=DataType::Float6e3m2 as i32, bytes, some(odd_text()), some(odd_text())).prop_map(
        |(code, bytes, name, doc)| {
            let mut tensor =
                TensorProto { name, data_type: Some(code), doc_string: doc, ..Default::default() };
            match bits(DataType::try_from(code).unwrap()) {
                Some(bits) => {
                    let elements = bytes.len() * 8 / bits;
                    tensor.dims = vec![elements as i64];
                    let size = (elements * bits).div_ceil(8);
                    tensor.raw_data = Some(bytes[..size].to_vec().into());
                }
                None => {
                    tensor.dims = vec![1, 2];
                    tensor.string_data = vec![bytes, b"second".to_vec()];
                }
            }
            tensor
        },
    )
}

fn types() -> impl Strategy<Value = TypeProto> {
    any::<(i32, u8)>().prop_map(|(code, dims)| {
        let dims = ["", "n", "? 4", "-1 a.b x"][usize::from(dims) % 4];
        let mut tensor = tensor_type(DataType::Float, dims);
        if let Some(type_proto::Value::TensorType(inner)) = &mut tensor.value {
            inner.elem_type = Some(code % 30);
        }
        tensor
    })
}

fn attributes() -> impl Strategy<Value = AttributeProto> {
    let scalars = (some(any::<f32>()), some(any::<i64>()), some(prop::collection::vec(any::<u8>(), 0..6)));
    let lists = (
        prop::collection::vec(any::<f32>(), 0..4),
        prop::collection::vec(any::<i64>(), 0..4),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..3),
        prop::collection::vec(tensors(), 0..3),
    );
    (0..16i32, some(odd_text()), odd_text(), scalars, lists, some(types()), any::<bool>()).prop_map(
        |(kind, reference, name, (f, i, s), (floats, ints, strings, tensors), tp, is_pure)| {
            let all = AttributeProto {
                name: Some(name),
                ref_attr_name: reference,
                r#type: Some(kind),
                f,
                i,
                s,
                t: tensors.first().cloned(),
                floats,
                ints,
                strings,
                tensors,
                tp,
                ..Default::default()
            };
            if !is_pure {
                return all;
            }
            // One of the fields alone, as attributes are.
            let bare = AttributeProto { name: all.name, r#type: all.r#type, ..Default::default() };
            match kind {
                1 => AttributeProto { f: all.f, ..bare },
                2 => AttributeProto { i: all.i, ..bare },
                3 => AttributeProto { s: all.s, ..bare },
                4 => AttributeProto { t: all.t, ..bare },
                6 => AttributeProto { floats: all.floats, ..bare },
                7 => AttributeProto { ints: all.ints, ..bare },
                8 => AttributeProto { strings: all.strings, ..bare },
                9 => AttributeProto { tensors: all.tensors, ..bare },
                13 => AttributeProto { tp: all.tp, ..bare },
                _ => AttributeProto { ref_attr_name: all.ref_attr_name, ..bare },
            }
        },
    )
}

fn nodes() -> impl Strategy<Value = NodeProto> {
    let names = (some(odd_text()), odd_text(), some(odd_text()));
    (names, prop::collection::vec(attributes(), 0..4), some(odd_text()), 0..3usize, 0..3usize).prop_map(
        |((name, op_type, domain), attribute, doc_string, inputs, outputs)| NodeProto {
            metadata_props: doc_string.iter().map(|text| entry(text, text)).collect(),
            name,
            op_type: Some(op_type),
            domain,
            attribute,
            doc_string,
            input: vec![String::new(); inputs],
            output: vec![String::new(); outputs],
            ..Default::default()
        },
    )
}

/// A graph whose nodes read what was computed before; `level` tells its names from those of the graphs around it.
fn graphs(level: usize) -> impl Strategy<Value = GraphProto> {
    let parts = (
        prop::collection::vec(nodes(), 0..5),
        prop::collection::vec(tensors(), 0..3),
        prop::collection::vec(any::<(prop::sample::Index, bool)>(), 8),
        prop::collection::vec((any::<prop::sample::Index>(), types()), 0..4),
        some(odd_text()),
        odd_text(),
    );
    parts.prop_map(move |(mut nodes, mut initializer, choices, listed, name, stem)| {
        let mut known = vec![format!("{stem}{level} in"), format!("in{level}")];
        let input = known.iter().map(|name| info(name, DataType::Float, "n")).collect();
        for (at, tensor) in initializer.iter_mut().enumerate() {
            tensor.name = Some(format!("{stem}{level}.c{at}"));
            known.extend(tensor.name.clone());
        }
        let mut choices = choices.into_iter().cycle();
        for (at, node) in nodes.iter_mut().enumerate() {
            for name in &mut node.input {
                let (index, is_left_out) = choices.next().unwrap();
                *name = if is_left_out { String::new() } else { index.get(&known).clone() };
            }
            for (port, name) in node.output.iter_mut().enumerate() {
                let (_, is_left_out) = choices.next().unwrap();
                *name = if is_left_out { String::new() } else { format!("{stem}{level}:{at}.{port}") };
                known.extend((!is_left_out).then(|| name.clone()));
            }
        }
        let typed = listed.into_iter().map(|(index, r#type)| ValueInfoProto {
            r#type: Some(r#type),
            ..info(&known[index.index(known.len())], DataType::Float, "")
        });
        GraphProto {
            name,
            value_info: typed.collect(),
            output: vec![info(known.last().unwrap(), DataType::Int64, "")],
            node: nodes,
            initializer,
            input,
            ..Default::default()
        }
    })
}

pub fn models() -> impl Strategy<Value = ModelProto> {
    (graphs(0), graphs(1), some(odd_text()), some(any::<i64>()), 3..12i64).prop_map(
        |(mut graph, body, text, version, ir_version)| {
            if let Some(node) = graph.node.last_mut() {
                node.attribute.push(attribute::graph("body", body));
            }
            ModelProto {
                ir_version: Some(ir_version),
                producer_name: text.clone(),
                doc_string: text.clone(),
                model_version: version,
                metadata_props: text.iter().map(|text| entry(text, "v")).collect(),
                functions: vec![FunctionProto {
                    name: text.clone(),
                    overload: text,
                    input: strings(&["a", "%"]),
                    attribute: strings(&["axis"]),
                    attribute_proto: vec![attribute::float("alpha", 0.5)],
                    opset_import: vec![import(None, 18)],
                    ..Default::default()
                }],
                ..model(graph)
            }
        },
    )
}
