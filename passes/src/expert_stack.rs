//! Products with a stack of matrices, as a mixture of experts has them.

use zqc_ir::tensor::DataType;
use zqc_ir::{Graph, Model, NodeId, ValueId};

use crate::constant_view::{ConstantView, is_float, root};

/// Since this opset `TopK` finds the smallest of integers, which puts tokens back in their order.
const SORTS_INTEGERS: i64 = 11;

/// A `MatMul` whose weight is a constant stack of float matrices, one for each expert.
pub(crate) struct ExpertStack {
    pub x: ValueId,
    /// What holds the matrices: an initializer, or the result of a `Constant` node.
    pub root: ValueId,
    /// How many of its elements come before the stack.
    pub start: usize,
    /// Experts, and the two dimensions of a matrix as it lies.
    pub dims: [usize; 3],
    /// Whether a matrix lies as `[N, K]`.
    pub transposed: bool,
    /// The element type in which the experts compute.
    pub dtype: DataType,
    /// What of `x` an expert reads.
    pub routing: Routing,
}

/// Which expert reads what.
#[derive(Clone, Copy)]
pub(crate) enum Routing {
    /// `y[.., e, T, N] = x[.., e, T, K] w[e, K, N]`. Where `x` has no axis of experts, or one of extent 1, every expert reads
    /// all of it.
    All,
    /// `y[t, C, N] = x[t, C, K] w[e[t], K, N]`, where the vector `e` is computed: `Gather` or `GatherND` looks up the matrix of
    /// every token `t`.
    Chosen { expert: ValueId },
    /// The same, written `y[t, N, C] = w[e[t], N, K] x[t, K, C]`.
    ChosenOnTheLeft { expert: ValueId },
}

impl ExpertStack {
    /// The stack that the node multiplies by; `None` for all other nodes.
    pub(crate) fn of(model: &Model, id: NodeId) -> Option<Self> {
        let graph = &model.graph;
        let node = graph.node(id);
        node.op.as_standard("MatMul")?;
        node.sole_output()?;
        let (left, right) = (node.input(0)?, node.input(1)?);
        // With a stack, a vector yields a result of fewer dimensions than rows do.
        let stack = Self::new(graph, left, right, Routing::All).filter(|_| graph.ty(left).rank() != Some(1));
        let chosen = |operand| chosen(graph, operand).filter(|_| model.opset() >= SORTS_INTEGERS);
        stack
            .or_else(|| {
                let Looked { stack, expert, transposed } = chosen(right)?;
                Some(Self::new(graph, left, stack, Routing::Chosen { expert })?.transposed_if(transposed))
            })
            .or_else(|| {
                let Looked { stack, expert, transposed } = chosen(left)?;
                // Its axes are swapped, which needs their number.
                (graph.ty(right).rank()? <= 3).then_some(())?;
                let stack = Self::new(graph, right, stack, Routing::ChosenOnTheLeft { expert })?;
                Some(stack.transposed_if(!transposed))
            })
    }

    fn new(graph: &Graph, x: ValueId, stack: ValueId, routing: Routing) -> Option<Self> {
        let ConstantView { root: matrices, start, dims, transposed, dtype } = ConstantView::of(graph, stack)?;
        let &[experts, rows, columns] = &dims[..] else { return None };
        let extent = |dim| usize::try_from(dim).ok().filter(|&extent| extent > 0);
        let dims = [extent(experts)?, extent(rows)?, extent(columns)?];
        let multiplies = is_float(dtype) && graph.literal(root(graph, x)).is_none();
        multiplies.then_some(Self { x, root: matrices, start, dims, transposed, dtype, routing })
    }

    fn transposed_if(self, transposed: bool) -> Self {
        Self { transposed: self.transposed ^ transposed, ..self }
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

/// Matrices that are looked up in a stack.
struct Looked {
    stack: ValueId,
    /// The vector of the expert of every token.
    expert: ValueId,
    /// Whether each is transposed on the way.
    transposed: bool,
}

/// The matrices, one a token, that `operand` is; `None` for all other values.
fn chosen(graph: &Graph, mut operand: ValueId) -> Option<Looked> {
    let producer =
        |value| Some(graph.node(graph.producer(value)?)).filter(|node| node.sole_output().is_some());
    let mut node = producer(operand)?;
    let mut transposed = false;
    if let Some(transpose) = node.op.as_standard("Transpose") {
        (transpose.ints("perm") == Some(&[0, 2, 1])).then_some(())?;
        transposed = true;
        operand = node.input(0)?;
        node = producer(operand)?;
    }
    let (stack, mut expert) = (node.input(0)?, node.input(1)?);
    if let Some(gather) = node.op.as_standard("Gather") {
        [0, -3].contains(&gather.int_or("axis", 0)).then_some(())?;
    } else {
        let gather = node.op.as_standard("GatherND")?;
        (gather.int_or("batch_dims", 0) == 0).then_some(())?;
        let unsqueeze = producer(expert)?;
        let given = unsqueeze.op.as_standard("Unsqueeze")?.ints("axes").map(<[i64]>::to_vec);
        let axes = given.or_else(|| graph.literal(unsqueeze.input(1)?)?.to_i64().ok())?;
        [vec![-1], vec![1]].contains(&axes).then_some(())?;
        expert = unsqueeze.input(0)?;
    }
    let computed = graph.literal(root(graph, expert)).is_none();
    (computed && graph.ty(expert).rank()? == 1).then_some(Looked { stack, expert, transposed })
}
