//! Where in a graph gradients flow.

use std::collections::HashSet;

use zqc_ir::tensor::DataType;
use zqc_ir::{Graph, NodeId, ValueId};

/// Whether the value may hold floating-point numbers: one whose element type is unknown may.
pub(crate) fn may_be_float(graph: &Graph, value: ValueId) -> bool {
    graph.ty(value).dtype.is_none_or(is_float)
}

/// Whether numbers of this type have gradients.
pub(crate) fn is_float(dtype: DataType) -> bool {
    matches!(dtype, DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double)
}

/// The floating-point values that `output` is computed from and that are computed from one of `wrt`, themselves included: those
/// that get a gradient. `order` is one in which the nodes can run.
pub(crate) fn active(graph: &Graph, order: &[NodeId], output: ValueId, wrt: &[ValueId]) -> HashSet<ValueId> {
    let mut active: HashSet<ValueId> = wrt.iter().copied().collect();
    for &id in order {
        let node = graph.node(id);
        if node.reads().any(|value| active.contains(&value)) {
            let results = node.outputs().iter().flatten().copied();
            active.extend(results.filter(|&value| may_be_float(graph, value)));
        }
    }
    let mut needed = HashSet::from([output]);
    for &id in order.iter().rev() {
        let node = graph.node(id);
        if node.outputs().iter().flatten().any(|value| needed.contains(value)) {
            needed.extend(node.reads());
        }
    }
    active.retain(|value| needed.contains(value));
    active
}
