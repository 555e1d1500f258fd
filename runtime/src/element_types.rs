//! The element types of values that no declaration names.
//!
//! What an executor needs to know of what it is fed: the types follow from those of constants and inputs by the operators' types.

use std::collections::HashMap;

use zqc_ir::onnx::proto::NodeProto;
use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::{Graph, Node, Op, ValueId};

/// Where an operator has the type of its first result from.
enum Rule {
    /// Always the same.
    Fixed(DataType),
    /// The type of an input.
    Input(usize),
    /// The type that an attribute names, or this default.
    Attribute(&'static str, DataType),
}

/// The operators whose results have not the type of their first input.
const RULES: [(&[&str], Rule); 8] = [
    (&["Shape", "Size", "NonZero", "ArgMax", "ArgMin"], Rule::Fixed(DataType::Int64)),
    (
        &[
            "Equal",
            "Less",
            "LessOrEqual",
            "Greater",
            "GreaterOrEqual",
            "And",
            "Or",
            "Xor",
            "Not",
            "IsNaN",
            "IsInf",
        ],
        Rule::Fixed(DataType::Bool),
    ),
    (&["MatMulInteger", "ConvInteger"], Rule::Fixed(DataType::Int32)),
    (&["Cast"], Rule::Attribute("to", DataType::Undefined)),
    (&["ConstantOfShape", "Constant"], Rule::Attribute("value", DataType::Float)),
    (&["Where", "CastLike", "DequantizeLinear"], Rule::Input(1)),
    (&["OneHot", "QuantizeLinear"], Rule::Input(2)),
    (&["RandomNormal", "RandomUniform"], Rule::Attribute("dtype", DataType::Float)),
];

/// The types of a graph's values as far as they follow from others.
pub fn element_types(graph: &Graph) -> HashMap<ValueId, DataType> {
    let mut types = HashMap::new();
    for id in graph.order().unwrap_or_default() {
        let node = graph.node(id);
        for (at, output) in node.outputs().iter().enumerate() {
            let Some(output) = *output else { continue };
            let known = |value: ValueId| known(graph, &types, value);
            if let Some(data_type) = known(output).or_else(|| result(node, at, &known)) {
                types.insert(output, data_type);
            }
        }
    }
    types
}

/// The type of a value that is declared, constant or found already.
pub fn known(graph: &Graph, found: &HashMap<ValueId, DataType>, value: ValueId) -> Option<DataType> {
    let declared = graph.value(value).dtype().filter(|&data_type| data_type != DataType::Undefined);
    let constant = || graph.constant(value).and_then(|tensor| tensor.dtype().ok());
    declared.or_else(constant).or_else(|| found.get(&value).copied())
}

/// The type of a node's result at this place.
fn result(node: &Node, at: usize, known: &impl Fn(ValueId) -> Option<DataType>) -> Option<DataType> {
    let input = |at: usize| node.input(at).and_then(known);
    match &node.op {
        Op::Linear(linear) => Some(linear.dtype),
        Op::QuantizedLinear(linear) | Op::QuantizedGather(linear) => Some(linear.dtype),
        Op::QuantizeActivation(_) => input(0),
        Op::Onnx(proto) if proto.bodies().next().is_some() => None,
        Op::Onnx(proto) if at > 0 && proto.op_type() == "TopK" => Some(DataType::Int64),
        Op::Onnx(proto) => match RULES.iter().find(|(names, _)| names.contains(&proto.op_type())) {
            Some((_, Rule::Fixed(data_type))) => Some(*data_type),
            Some((_, Rule::Input(at))) => input(*at),
            Some((_, Rule::Attribute(name, default))) => named(proto, name, *default),
            None => node.inputs().iter().flatten().find_map(|&value| known(value)),
        },
    }
}

/// The type that an attribute names, or that of the tensor that it holds.
fn named(proto: &NodeProto, name: &str, default: DataType) -> Option<DataType> {
    if proto.find_attribute("value_int").or(proto.find_attribute("value_ints")).is_some() {
        return Some(DataType::Int64);
    }
    let Some(attribute) = proto.find_attribute(name) else {
        return Some(default).filter(|&data_type| data_type != DataType::Undefined);
    };
    let of_tensor = attribute.t.as_ref().and_then(|tensor| tensor.data_type);
    let code = of_tensor.or_else(|| i32::try_from(attribute.i?).ok())?;
    DataType::try_from(code).ok()
}

#[cfg(test)]
mod tests {
    use zqc_ir::onnx::from_proto;
    use zqc_ir::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto, ValueInfoProto};
    use zqc_ir::op::attribute;

    use super::*;

    fn node(op_type: &str, input: &[&str], output: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op_type.to_string()),
            input: input.iter().map(|name| name.to_string()).collect(),
            output: output.iter().map(|name| name.to_string()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn types_follow_from_operators() {
        let mut cast = node("Cast", &["length"], &["half"]);
        cast.attribute = vec![attribute::int("to", DataType::Float16 as i64)];
        let nodes = vec![
            node("Shape", &["x"], &["length"]),
            cast,
            node("Add", &["half", "half"], &["sum"]),
            node("Less", &["sum", "half"], &["mask"]),
            node("Where", &["mask", "sum", "half"], &["chosen"]),
            node("TopK", &["chosen", "length"], &["values", "indices"]),
        ];
        let output = vec![ValueInfoProto { name: Some("values".to_string()), ..Default::default() }];
        let input = vec![ValueInfoProto { name: Some("x".to_string()), ..Default::default() }];
        let graph =
            GraphProto { name: Some("g".to_string()), node: nodes, input, output, ..Default::default() };
        let opset = OperatorSetIdProto { version: Some(20), ..Default::default() };
        let model = ModelProto {
            ir_version: Some(10),
            opset_import: vec![opset],
            graph: Some(graph),
            ..Default::default()
        };
        let graph = from_proto(model).unwrap().graph;
        let types = element_types(&graph);
        let found = ["x", "length", "half", "sum", "mask", "chosen", "values", "indices"]
            .map(|name| types.get(&graph.find(name).unwrap()).copied());
        let half = Some(DataType::Float16);
        let (int, truth) = (Some(DataType::Int64), Some(DataType::Bool));
        assert_eq!(found, [None, int, half, half, truth, half, half, int]);
    }
}
