//! Spells out what `Softmax` and its kin meant before opset 13, which rten does not know: the dimensions from `axis` on, 1 by
//! default, were taken as one.

use zqc_ir::onnx::proto::{ModelProto, NodeProto};
use zqc_ir::op::{attribute, is_standard};
use zqc_ir::opset;

use super::visit;

/// The first opset in which they are taken over one axis.
const OVER_ONE_AXIS: i64 = 13;

/// Puts every such node of a model below that opset, subgraphs included, between a `Flatten` and a `Reshape`.
pub fn flatten_axes(model: &mut ModelProto) {
    let version = opset::version(&model.opset_import, "").unwrap_or(1);
    if let (true, Some(graph)) = (version < OVER_ONE_AXIS, &mut model.graph) {
        visit::for_each_graph(graph, &mut |graph| {
            let nodes = std::mem::take(&mut graph.node);
            graph.node = nodes.into_iter().flat_map(flattened).collect();
        });
    }
}

/// The nodes that compute what `node` does, over the last of two dimensions.
fn flattened(mut node: NodeProto) -> Vec<NodeProto> {
    let is_one = is_standard(node.domain()) && ["Softmax", "LogSoftmax", "Hardmax"].contains(&node.op_type());
    let ([x], [y], true) = (&node.input[..], &node.output[..], is_one) else { return vec![node] };
    let standard = |op_type: &str, input: &[&str], output: String, attributes| NodeProto {
        op_type: Some(op_type.to_string()),
        name: node.name.clone(),
        input: input.iter().map(|name| name.to_string()).collect(),
        output: vec![output],
        attribute: attributes,
        ..Default::default()
    };
    let [rows, result, shape] = ["rows", "result", "shape"].map(|part| format!("{y}/{part}"));
    let axis = vec![attribute::int("axis", node.int_or("axis", 1))];
    let before =
        [standard("Shape", &[x], shape.clone(), Vec::new()), standard("Flatten", &[x], rows.clone(), axis)];
    let after = standard("Reshape", &[&result, &shape], y.clone(), Vec::new());
    (node.input, node.output) = (vec![rows], vec![result]);
    node.attribute = vec![attribute::int("axis", 1)];
    before.into_iter().chain([node, after]).collect()
}
