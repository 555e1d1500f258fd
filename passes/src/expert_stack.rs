//! Products with a stack of matrices, as a mixture of experts has them.

use zqc_ir::tensor::DataType;
use zqc_ir::{Graph, NodeId, ValueId};

use crate::constant_view::{ConstantView, is_float, root};

/// `y[.., e, T, N] = x[.., e, T, K] w[e, K, N]`: a `MatMul` whose weight is a constant stack of float matrices, one for each
/// expert `e`. Where `x` has no axis of experts, or one of extent 1, every expert reads all of it.
pub(crate) struct ExpertStack {
    pub x: ValueId,
    /// What holds the matrices: an initializer, or the result of a `Constant` node.
    pub root: ValueId,
    /// Experts, and the two dimensions of a matrix as it lies.
    pub dims: [usize; 3],
    /// Whether a matrix lies as `[N, K]`.
    pub transposed: bool,
    /// The element type in which the experts compute.
    pub dtype: DataType,
}

impl ExpertStack {
    /// The stack that the node multiplies by; `None` for all other nodes.
    pub(crate) fn of(graph: &Graph, id: NodeId) -> Option<Self> {
        let node = graph.node(id);
        node.op.as_standard("MatMul")?;
        node.sole_output()?;
        let (x, weight) = (node.input(0)?, node.input(1)?);
        let ConstantView { root: matrices, dims, transposed, dtype } = ConstantView::of(graph, weight)?;
        let &[experts, rows, columns] = &dims[..] else { return None };
        let extent = |dim| usize::try_from(dim).ok().filter(|&extent| extent > 0);
        let dims = [extent(experts)?, extent(rows)?, extent(columns)?];
        let multiplies = is_float(dtype) && graph.literal(root(graph, x)).is_none();
        multiplies.then_some(Self { x, root: matrices, dims, transposed, dtype })
    }

    pub(crate) fn experts(&self) -> usize {
        self.dims[0]
    }

    /// Input and output features of an expert.
    pub(crate) fn features(&self) -> [usize; 2] {
        let [_, rows, columns] = self.dims;
        if self.transposed { [columns, rows] } else { [rows, columns] }
    }
}
