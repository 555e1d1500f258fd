//! The types of a node's results.

use super::{Dim, Type, rules};
use crate::graph::{Graph, Node};
use crate::op::Op;
use crate::tensor::DataType;

/// What is known of a node's inputs.
pub(super) struct Inputs<'g> {
    graph: &'g Graph,
    node: &'g Node,
}

impl Inputs<'_> {
    /// Whether the input is there.
    pub(super) fn is_given(&self, port: usize) -> bool {
        self.node.input(port).is_some()
    }

    /// The type of an input; nothing is known of one that is left out.
    pub(super) fn ty(&self, port: usize) -> Type {
        self.node.input(port).map_or_else(Type::default, |value| self.graph.ty(value))
    }

    /// The types of all inputs that are there.
    pub(super) fn all(&self) -> Vec<Type> {
        self.node.inputs().iter().flatten().map(|&value| self.graph.ty(value)).collect()
    }

    /// The element type that all inputs have in common, as far as one of them tells; none where they contradict each other, as
    /// in a model that no runtime takes.
    pub(super) fn shared_dtype(&self) -> Option<DataType> {
        let types = self.all();
        let first = types.iter().find_map(|ty| ty.dtype)?;
        types.iter().all(|ty| ty.dtype.is_none_or(|dtype| dtype == first)).then_some(first)
    }

    /// The values of an input that is a constant of integers.
    pub(super) fn integers(&self, port: usize) -> Option<Vec<i64>> {
        self.graph.literal(self.node.input(port)?)?.to_i64().ok()
    }

    /// The shape that an input holds: its numbers where it is constant, else as many unknown ones as it has.
    pub(super) fn extents(&self, port: usize) -> Option<Vec<Dim>> {
        if let Some(dims) = self.integers(port) {
            return Some(dims.into_iter().map(Dim::Fixed).collect());
        }
        let rank = usize::try_from(self.ty(port).dim(0).fixed()?).ok()?;
        // A rank that no tensor has is none.
        (rank <= MAX_RANK).then(|| vec![Dim::Unknown; rank])
    }

    /// The number of the node's results.
    pub(super) fn results(&self) -> usize {
        self.node.outputs().len()
    }
}

/// More dimensions than any runtime takes.
const MAX_RANK: usize = 64;

/// The types of the results of `node`, by port; those that are missing are unknown.
pub(crate) fn infer(graph: &Graph, node: &Node) -> Vec<Type> {
    let inputs = Inputs { graph, node };
    let with_last = |last: usize| {
        let mut shape = inputs.ty(0).shape;
        if let Some(dim) = shape.as_mut().and_then(|shape| shape.last_mut()) {
            *dim = Dim::Fixed(last as i64);
        }
        shape
    };
    match &node.op {
        Op::Onnx(proto) => rules::results(proto, &inputs),
        // Codes, scales and zero points, whose element types are those of the format.
        Op::QuantizeActivation(_) => vec![Type::new(None, inputs.ty(0).shape)],
        Op::Linear(linear) => vec![Type::new(linear.dtype, with_last(linear.n))],
        Op::QuantizedLinear(linear) => vec![Type::new(linear.dtype, with_last(linear.n))],
        Op::QuantizedGather(table) => {
            let mut shape = inputs.ty(0).shape;
            shape.iter_mut().for_each(|shape| shape.push(Dim::Fixed(table.k as i64)));
            vec![Type::new(table.dtype, shape)]
        }
    }
}
