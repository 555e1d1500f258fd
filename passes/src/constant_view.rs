//! What a value is when only constants stand behind it: an initializer, the tensor of a `Constant` node or what a
//! `DequantizeLinear` yields, seen through operators that rearrange its elements or take some of them without computing
//! anything.

mod part;

use zqc_ir::graph::Source;
use zqc_ir::onnx::proto::NodeProto;
use zqc_ir::tensor::{DataType, TensorError};
use zqc_ir::{Graph, Tensor, ValueId};

use crate::dequantized::Dequantized;
use part::Part;

/// Operators that hand their first input on, in another type, shape or order.
pub(crate) const VIEWS: [&str; 8] =
    ["Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Constant"];

/// Operators that hand a part of their first input on; where their other inputs are constants, it is the same every time.
const PARTS: [&str; 3] = ["Gather", "Slice", "Split"];

/// Longer chains of views are not followed: no exporter writes them.
const MAX_CHAIN: usize = 64;

/// A constant, as an operand sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConstantView {
    /// The constant, before all views: an initializer, or the result of a `Constant` or `DequantizeLinear` node.
    pub root: ValueId,
    /// How many of its elements come before the first one that the operand has: those lie in one piece.
    pub start: usize,
    /// The dimensions in which its elements are to be read, before `transposed`.
    pub dims: Vec<i64>,
    /// Whether the operand is the transpose of the matrix, or of each matrix in a stack, of these dimensions.
    pub transposed: bool,
    /// The element type that the operand has.
    pub dtype: DataType,
}

impl ConstantView {
    /// The view that `operand` is; `None` when it is computed, when the elements get into an order that no transposition of
    /// a matrix makes, or when the element type changes from or to anything but a floating-point one.
    pub(crate) fn of(graph: &Graph, operand: ValueId) -> Option<Self> {
        let (root, chain) = chain(graph, operand, true)?;
        let (dims, dtype) = match (graph.literal(root), Dequantized::of(graph, root)) {
            (Some(tensor), _) => (tensor.dims().to_vec(), tensor.dtype().ok()?),
            (None, Some(weight)) => (weight.dims().to_vec(), weight.dtype),
            (None, None) => return None,
        };
        let mut view = Self { root, start: 0, dims, transposed: false, dtype };
        for value in chain.into_iter().rev() {
            view = view.through(graph, value)?;
        }
        Some(view)
    }

    /// The view that the node behind `value` makes of this one.
    fn through(mut self, graph: &Graph, value: ValueId) -> Option<Self> {
        let Source::Node { node, port } = graph.source(value) else { return None };
        let node = graph.node(node);
        if let Some(part) = Part::of(graph, node, port, &self.dims) {
            // The last two axes of a transposed stack are in another order than its elements.
            let whole = self.dims.len().saturating_sub(2);
            (!self.transposed || part.axes <= whole).then_some(())?;
            self.start = self.start.checked_add(part.start)?;
            self.dims = part.dims;
            return Some(self);
        }
        node.sole_output()?;
        let proto = |op_type| node.op.as_standard(op_type);
        if proto("Identity").is_some() {
            return Some(self);
        }
        if let Some(cast) = proto("Cast") {
            let to = DataType::try_from(i32::try_from(cast.int_or("to", 0)).ok()?).ok()?;
            let from = std::mem::replace(&mut self.dtype, to);
            return (from == to || is_float(from) && is_float(to)).then_some(self);
        }
        if let Some(transpose) = proto("Transpose") {
            return self.transpose(transpose);
        }
        let given = |port| match node.input(port) {
            Some(input) => graph.literal(input).and_then(|tensor| tensor.to_i64().ok()),
            None => None,
        };
        if let Some(squeeze) = proto("Squeeze") {
            let dims = squeezed(&self.dims, given(1).or_else(|| squeeze.ints("axes").map(<[i64]>::to_vec)))?;
            let matrix = |dims: &[i64]| dims.len().checked_sub(2).map(|at| dims[at..].to_vec());
            let keeps_matrix = matrix(&dims).is_some() && matrix(&dims) == matrix(&self.dims);
            self.dims = dims;
            return (!self.transposed || keeps_matrix).then_some(self);
        }
        if self.transposed {
            return None;
        }
        self.dims = if let Some(reshape) = proto("Reshape") {
            reshaped(&self.dims, &given(1)?, reshape.int_or("allowzero", 0) != 0)?
        } else if let Some(flatten) = proto("Flatten") {
            flattened(&self.dims, flatten.int_or("axis", 1))?
        } else if let Some(unsqueeze) = proto("Unsqueeze") {
            unsqueezed(&self.dims, &given(1).or_else(|| unsqueeze.ints("axes").map(<[i64]>::to_vec))?)?
        } else {
            return None;
        };
        Some(self)
    }

    /// The elements as they are stored, in the dimensions before `transposed`; they share the payload of an initializer.
    ///
    /// # Errors
    /// When the constant cannot be read, or is smaller than its dimensions say.
    pub(crate) fn tensor(
        graph: &Graph,
        root: ValueId,
        start: usize,
        dims: &[i64],
    ) -> Result<Tensor, TensorError> {
        let whole = match (graph.literal(root), Dequantized::of(graph, root)) {
            (Some(tensor), _) => tensor.into_owned(),
            (None, Some(weight)) => weight.tensor()?,
            (None, None) => return Err(TensorError::NotLoaded),
        };
        whole.part(start, dims)
    }

    fn transpose(mut self, node: &NodeProto) -> Option<Self> {
        let rank = self.dims.len();
        let reversed: Vec<i64> = (0..rank as i64).rev().collect();
        let order = node.ints("perm").unwrap_or(&reversed);
        let mut sorted = order.to_vec();
        sorted.sort();
        if !sorted.into_iter().eq(0..rank as i64) {
            return None;
        }
        let long = |&&axis: &&i64| self.dims[axis as usize] != 1;
        if rank > 2 && !self.transposed && order.iter().filter(long).is_sorted() {
            self.dims = order.iter().map(|&axis| self.dims[axis as usize]).collect();
            return Some(self);
        }
        let mut swapped: Vec<i64> = (0..rank as i64).collect();
        if rank >= 2 {
            swapped.swap(rank - 2, rank - 1);
        }
        let swaps = order == swapped;
        self.transposed ^= swaps;
        (swaps || order.is_sorted()).then_some(self)
    }
}

/// Where the constant behind `operand` lies; `operand` itself when it is computed.
pub(crate) fn root(graph: &Graph, operand: ValueId) -> ValueId {
    chain(graph, operand, false).map_or(operand, |(root, _)| root)
}

/// Whether tensors of this type hold the weights of float layers.
pub(crate) fn is_float(dtype: DataType) -> bool {
    matches!(dtype, DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double)
}

/// The constant behind `operand`, and the results of the views on the way, the last first; perhaps `through_parts`, too.
fn chain(graph: &Graph, operand: ValueId, through_parts: bool) -> Option<(ValueId, Vec<ValueId>)> {
    let (mut root, mut chain) = (operand, Vec::new());
    while let Some(producer) = graph.producer(root) {
        let node = graph.node(producer);
        if Dequantized::of(graph, root).is_some() {
            break;
        }
        let is = |op_type: &&str| node.op.as_standard(op_type).is_some();
        let is_constant = |&input: &ValueId| graph.literal(input).is_some();
        let is_part = || PARTS.iter().any(is) && node.inputs().iter().skip(1).flatten().all(is_constant);
        (VIEWS.iter().any(is) || through_parts && is_part()).then_some(())?;
        if node.op.as_standard("Constant").is_some() {
            break;
        }
        chain.push(root);
        root = node.input(0).filter(|_| chain.len() <= MAX_CHAIN)?;
    }
    Some((root, chain))
}

fn reshaped(dims: &[i64], shape: &[i64], allow_zero: bool) -> Option<Vec<i64>> {
    let copied =
        |(at, &dim): (usize, &i64)| if dim == 0 && !allow_zero { dims.get(at).copied() } else { Some(dim) };
    let mut shape: Vec<i64> = shape.iter().enumerate().map(copied).collect::<Option<_>>()?;
    let all = product(dims)?;
    let known = product(&shape.iter().copied().filter(|&dim| dim != -1).collect::<Vec<_>>())?;
    let open: Vec<usize> = (0..shape.len()).filter(|&at| shape[at] == -1).collect();
    match open[..] {
        [] => {}
        [at] => shape[at] = all.checked_div(known)?,
        _ => return None,
    }
    (product(&shape)? == all).then_some(shape)
}

fn flattened(dims: &[i64], axis: i64) -> Option<Vec<i64>> {
    let axis = if axis < 0 { axis + dims.len() as i64 } else { axis };
    let (rows, columns) = dims.split_at_checked(usize::try_from(axis).ok()?)?;
    Some(vec![product(rows)?, product(columns)?])
}

/// The dimensions without those at `axes`, or without all of extent 1.
fn squeezed(dims: &[i64], axes: Option<Vec<i64>>) -> Option<Vec<i64>> {
    let rank = dims.len() as i64;
    let axes = axes.map(|axes| axes.into_iter().map(|axis| axis.rem_euclid(rank.max(1))).collect::<Vec<_>>());
    let goes = |at: usize| axes.as_ref().map_or(dims[at] == 1, |axes| axes.contains(&(at as i64)));
    let one = |at: usize| !goes(at) || dims[at] == 1;
    (0..dims.len()).all(one).then(|| (0..dims.len()).filter(|&at| !goes(at)).map(|at| dims[at]).collect())
}

fn unsqueezed(dims: &[i64], axes: &[i64]) -> Option<Vec<i64>> {
    let rank = dims.len() + axes.len();
    let axes: Vec<i64> = axes.iter().map(|axis| axis.rem_euclid(rank.max(1) as i64)).collect();
    let mut rest = dims.iter();
    let all: Option<Vec<i64>> =
        (0..rank as i64).map(|at| if axes.contains(&at) { Some(1) } else { rest.next().copied() }).collect();
    all.filter(|_| rest.next().is_none())
}

/// The number of elements in these dimensions; `None` where there are too many, or a dimension is negative.
pub(crate) fn product(dims: &[i64]) -> Option<i64> {
    dims.iter().try_fold(1i64, |product, &dim| product.checked_mul(dim)).filter(|&product| product >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_follow_the_rules_of_onnx() {
        assert_eq!(reshaped(&[2, 3, 4], &[0, -1], false), Some(vec![2, 12]));
        assert_eq!(reshaped(&[2, 3, 4], &[5, -1], false), None);
        assert_eq!(reshaped(&[2, 3], &[-1, -1], false), None);
        assert_eq!(reshaped(&[0, 3], &[0, 3], true), Some(vec![0, 3]));
        assert_eq!(reshaped(&[0], &[0, -1], true), None);
        assert_eq!(flattened(&[2, 3, 4], -1), Some(vec![6, 4]));
        assert_eq!(flattened(&[2, 3, 4], 4), None);
        assert_eq!(squeezed(&[1, 2, 1], None), Some(vec![2]));
        assert_eq!(squeezed(&[1, 2, 1], Some(vec![-1])), Some(vec![1, 2]));
        assert_eq!(squeezed(&[1, 2], Some(vec![1])), None);
        assert_eq!(unsqueezed(&[2, 3], &[0, -1]), Some(vec![1, 2, 3, 1]));
        assert_eq!(unsqueezed(&[2], &[0, 0]), None);
        assert_eq!(product(&[i64::MAX, 2]), None);
    }
}
