//! Which words the language has: for kinds of attributes, for operators, for what a message says.

use super::quote;
use crate::onnx::proto::{
    AttributeProto, TensorProto, attribute_proto::AttributeType, tensor_proto::DataLocation,
};

/// Words that begin something else than a node.
const KEYWORDS: [&str; 6] = ["_", "const", "metadata", "node", "proto", "types"];
/// What the names of our own operators begin with.
pub(super) const OWN: &str = "zqc.";

/// The words for kinds of attributes.
pub(super) const KINDS: [(AttributeType, &str); 14] = [
    (AttributeType::Float, "float"),
    (AttributeType::Int, "int"),
    (AttributeType::String, "string"),
    (AttributeType::Tensor, "tensor"),
    (AttributeType::Graph, "graph"),
    (AttributeType::SparseTensor, "sparse_tensor"),
    (AttributeType::TypeProto, "type"),
    (AttributeType::Floats, "floats"),
    (AttributeType::Ints, "ints"),
    (AttributeType::Strings, "strings"),
    (AttributeType::Tensors, "tensors"),
    (AttributeType::Graphs, "graphs"),
    (AttributeType::SparseTensors, "sparse_tensors"),
    (AttributeType::TypeProtos, "types"),
];

/// What a tensor has beside type and payload.
pub(super) fn beside_payload(tensor: &TensorProto) -> TensorProto {
    let TensorProto {
        dims: _,
        data_type: _,
        segment,
        float_data: _,
        int32_data: _,
        string_data: _,
        int64_data: _,
        name: _,
        doc_string,
        raw_data: _,
        external_data: _,
        data_location,
        double_data: _,
        uint64_data: _,
        metadata_props,
    } = tensor;
    TensorProto {
        segment: *segment,
        doc_string: doc_string.clone(),
        data_location: data_location.filter(|&location| location != DataLocation::External as i32),
        metadata_props: metadata_props.clone(),
        ..Default::default()
    }
}

/// How many values an attribute has of each kind; no more than one of some.
fn items(attribute: &AttributeProto) -> [(AttributeType, usize); 14] {
    let AttributeProto {
        name: _,
        ref_attr_name: _,
        doc_string: _,
        r#type: _,
        f,
        i,
        s,
        t,
        g,
        sparse_tensor,
        tp,
        floats,
        ints,
        strings,
        tensors,
        graphs,
        sparse_tensors,
        type_protos,
    } = attribute;
    [
        (AttributeType::Float, f.iter().len()),
        (AttributeType::Int, i.iter().len()),
        (AttributeType::String, s.iter().len()),
        (AttributeType::Tensor, t.iter().len()),
        (AttributeType::Graph, g.iter().len()),
        (AttributeType::SparseTensor, sparse_tensor.iter().len()),
        (AttributeType::TypeProto, tp.iter().len()),
        (AttributeType::Floats, floats.len()),
        (AttributeType::Ints, ints.len()),
        (AttributeType::Strings, strings.len()),
        (AttributeType::Tensors, tensors.len()),
        (AttributeType::Graphs, graphs.len()),
        (AttributeType::SparseTensors, sparse_tensors.len()),
        (AttributeType::TypeProtos, type_protos.len()),
    ]
}

/// Whether it has no value at all.
pub(super) fn is_empty(attribute: &AttributeProto) -> bool {
    items(attribute).iter().all(|&(_, count)| count == 0)
}

/// Whether the language has words for the value: it has the kind that is declared, and no other.
pub(super) fn has_words(attribute: &AttributeProto) -> bool {
    let kind = KINDS.iter().find(|(kind, _)| attribute.r#type == Some(*kind as i32)).map(|(kind, _)| *kind);
    let other = items(attribute).iter().any(|&(of, count)| count > 0 && Some(of) != kind);
    let count = items(attribute).iter().map(|(_, count)| count).sum::<usize>();
    match (kind, &attribute.ref_attr_name) {
        (_, Some(_)) => count == 0 && (kind.is_some() || attribute.r#type.is_none()),
        (Some(AttributeType::SparseTensor | AttributeType::SparseTensors) | None, None) => false,
        (Some(kind), None) => !other && (is_list(kind) || count == 1),
    }
}

/// Whether an attribute of this kind has any number of values.
pub(super) fn is_list(kind: AttributeType) -> bool {
    use AttributeType::*;
    matches!(kind, Floats | Ints | Strings | Tensors | Graphs | SparseTensors | TypeProtos)
}

/// A float so that it is told from an integer, and reads back as the same bits.
pub(super) fn float(value: f32) -> String {
    match value.is_nan() {
        true => format!("0x{:08x}", value.to_bits()),
        false => format!("{value:?}"),
    }
}

pub(super) fn value(name: &str) -> String {
    format!("%{}", quote::name(name))
}

/// A value, or `_` where it has no name.
pub(super) fn optional_value(name: Option<&str>) -> String {
    name.map_or("_".to_string(), value)
}

/// An operator or a function: `MatMul`, `com.microsoft::FusedMatMul`, `user::Linear:f16` with an overload, `_` where it has no name.
pub(super) fn operator(domain: Option<&str>, name: Option<&str>, overload: Option<&str>) -> String {
    let word =
        |text| quote::word(text, |word| KEYWORDS.contains(&word) || word.starts_with(OWN)).into_owned();
    let domain = domain.map_or(String::new(), |domain| format!("{}::", word(domain)));
    let name = name.map_or("_".to_string(), word);
    let overload = overload.map_or(String::new(), |overload| format!(":{}", word(overload)));
    format!("{domain}{name}{overload}")
}
