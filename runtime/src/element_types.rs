//! The element types of values that no declaration names.
//!
//! What an executor needs to know of what it is fed. Where the IR infers no type, as of an operator that it does not know, that of
//! the first input is taken.

use std::collections::HashMap;

use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::{Graph, Node, Op, ValueId};

/// The types of a graph's values as far as they follow from others.
pub fn element_types(graph: &Graph) -> HashMap<ValueId, DataType> {
    let mut types = HashMap::new();
    for id in graph.order().unwrap_or_default() {
        let node = graph.node(id);
        for output in node.outputs().iter().flatten() {
            let known = |value: ValueId| known(graph, &types, value);
            if let Some(data_type) = known(*output).or_else(|| like_inputs(node, &known)) {
                types.insert(*output, data_type);
            }
        }
    }
    types
}

/// The type of a value that is known or found already.
pub fn known(graph: &Graph, found: &HashMap<ValueId, DataType>, value: ValueId) -> Option<DataType> {
    graph.ty(value).dtype.or_else(|| found.get(&value).copied())
}

/// The type of the first input that has one.
fn like_inputs(node: &Node, known: &impl Fn(ValueId) -> Option<DataType>) -> Option<DataType> {
    match &node.op {
        Op::Onnx(_) if !node.regions().is_empty() => None,
        _ => node.inputs().iter().flatten().find_map(|&value| known(value)),
    }
}

#[cfg(test)]
mod tests {
    use zqc_ir::onnx::from_proto;
    use zqc_ir::onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};
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
