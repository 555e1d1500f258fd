//! Rewrites products that ONNX Runtime's optimizer fused, which rten does not know, as standard operators.

use std::collections::HashSet;

use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use zqc_ir::op::attribute;

use super::visit;

/// Takes every `FusedMatMul` of domain `com.microsoft` apart, subgraphs included, into `MatMul`, which broadcasts operands of
/// different rank as it does, the transposes before it and a product with its `alpha` behind it. Those that swap batch
/// dimensions stay.
pub fn take_apart(model: &mut ModelProto) {
    if let Some(graph) = &mut model.graph {
        visit::for_each_graph(graph, &mut |graph| {
            let vectors = vectors(graph);
            let nodes = std::mem::take(&mut graph.node);
            graph.node = nodes.into_iter().flat_map(|node| apart(node, &vectors)).collect();
        });
    }
}

/// The names of the values that are known to have one dimension, to which the attributes that transpose mean nothing.
fn vectors(graph: &GraphProto) -> HashSet<String> {
    let declared = |value: &ValueInfoProto| match value.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => Some(tensor.shape.as_ref()?.dim.len()),
        _ => None,
    };
    let values = graph.input.iter().chain(&graph.value_info);
    let values = values.filter(|value| declared(value) == Some(1)).map(|value| value.name());
    let constants = graph.initializer.iter().filter(|tensor| tensor.dims.len() == 1);
    values.chain(constants.map(|tensor| tensor.name())).map(str::to_string).collect()
}

/// The nodes that compute what `node` does.
fn apart(node: NodeProto, vectors: &HashSet<String>) -> Vec<NodeProto> {
    let is_set = |name| node.int_or(name, 0) != 0;
    let swaps_batch = is_set("transBatchA") || is_set("transBatchB");
    let fused = node.domain() == "com.microsoft" && node.op_type() == "FusedMatMul" && !swaps_batch;
    let ([a, b], [output], true) = (&node.input[..], &node.output[..], fused) else { return vec![node] };
    let mut nodes = Vec::new();
    let mut add = |op_type: &str, input: &[&str], output: String, attributes| {
        nodes.push(NodeProto {
            op_type: Some(op_type.to_string()),
            name: node.name.clone(),
            input: input.iter().map(|name| name.to_string()).collect(),
            output: vec![output.clone()],
            attribute: attributes,
            ..Default::default()
        });
        output
    };
    let mut operand = |name: &String, flag, side| {
        if !is_set(flag) || vectors.contains(name) {
            return name.clone();
        }
        // `Transpose` would have to know the rank.
        let equation = attribute::string("equation", "...ij->...ji");
        add("Einsum", &[name], format!("{output}/{side}"), vec![equation])
    };
    let (a, b) = (operand(a, "transA", "a"), operand(b, "transB", "b"));
    let product = format!("{output}/product");
    let product = match vectors.contains(&b) {
        // rten's `MatMul` leaves an axis too many where it multiplies a stack by a vector.
        true => add("Einsum", &[&a, &b], product, vec![attribute::string("equation", "...k,k->...")]),
        false => add("MatMul", &[&a, &b], product, Vec::new()),
    };
    let factor = TensorProto {
        data_type: Some(DataType::Float as i32),
        float_data: vec![node.float_or("alpha", 1.0)],
        ..Default::default()
    };
    let value = vec![attribute::tensor("value", factor)];
    let alpha = add("Constant", &[], format!("{output}/alpha"), value);
    add("Mul", &[&product, &alpha], output.clone(), Vec::new());
    nodes
}
