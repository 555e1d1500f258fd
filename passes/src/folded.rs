//! What a graph computes from constants alone.

use std::collections::HashSet;

use zqc_ir::graph::Cycle;
use zqc_ir::tensor::DataType;
use zqc_ir::{Graph, Node, NodeId, Op, Tensor, ValueId};

use crate::constant_view::is_float;

/// The values that are the same in every run.
pub(crate) struct Folded<'g> {
    graph: &'g Graph,
    computed: HashSet<ValueId>,
}

impl<'g> Folded<'g> {
    /// Those of a graph whose nodes are in this order.
    pub(crate) fn new(graph: &'g Graph, order: &[NodeId]) -> Self {
        let mut folded = Self { graph, computed: HashSet::new() };
        for &id in order {
            let node = graph.node(id);
            let Op::Onnx(_) = &node.op else { continue };
            let is_random =
                ["Random", "Bernoulli", "Multinomial"].iter().any(|kind| node.op.kind().starts_with(kind));
            let plain = node.regions().is_empty() && !is_random;
            if plain && node.reads().next().is_some() && node.reads().all(|value| folded.contains(value)) {
                folded.computed.extend(node.outputs().iter().flatten());
            }
        }
        folded
    }

    /// Whether the value is a constant, or made of nothing else.
    pub(crate) fn contains(&self, value: ValueId) -> bool {
        self.computed.contains(&value) || self.graph.literal(value).is_some()
    }

    /// The largest matrix, or stack of matrices, of float numbers or of codes that `value` is made of, if it is made of constants
    /// alone, and the number of its elements.
    pub(crate) fn weight_behind(&self, value: ValueId) -> Option<(ValueId, usize)> {
        let mut seen = HashSet::from([value]);
        let mut open = vec![value];
        let mut largest = None;
        while let Some(value) = open.pop().filter(|&value| self.contains(value)) {
            if let Some(tensor) = self.graph.literal(value) {
                let elements = if is_weight(&tensor) { tensor.elements().unwrap_or(0) } else { 0 };
                if elements > largest.map_or(0, |(_, elements)| elements) {
                    largest = Some((value, elements));
                }
            } else if let Some(producer) = self.graph.producer(value) {
                open.extend(self.graph.node(producer).reads().filter(|&value| seen.insert(value)));
            }
        }
        largest
    }
}

/// The names of the constants that the float layers of a graph are made of.
///
/// # Errors
/// When the nodes of the graph have no order.
pub fn weights_of_layers(graph: &Graph) -> Result<HashSet<String>, Cycle> {
    let folded = Folded::new(graph, &graph.order()?);
    let operands = graph.nodes().flat_map(|(_, node)| match &node.op {
        Op::Linear(linear) => linear.origin.iter().flat_map(Node::reads).collect(),
        _ => Vec::new(),
    });
    let weights = operands.filter_map(|operand| folded.weight_behind(operand));
    Ok(weights.map(|(weight, _)| graph.value(weight).name.clone()).collect())
}

fn is_weight(tensor: &Tensor) -> bool {
    use DataType::*;
    let holds_weights = |dtype| {
        let codes = [
            Int8,
            Uint8,
            Int4,
            Uint4,
            Int2,
            Uint2,
            Float8e4m3fn,
            Float8e4m3fnuz,
            Float8e5m2,
            Float8e5m2fnuz,
            Float6e2m3,
            Float6e3m2,
            Float4e2m1,
        ];
        is_float(dtype) || codes.contains(&dtype)
    };
    tensor.dims().len() >= 2 && tensor.dtype().is_ok_and(holds_weights)
}
