//! Operators that pick elements: what was not picked gets zeros.

use zqc_ir::op::attribute::{int, ints, string};
use zqc_ir::tensor::DataType;
use zqc_ir::{Op, ValueRef};

use crate::backward::{Backward, Reason};

/// The first opset in which `ScatterND` adds up.
const SCATTER_OF_SUMS: i64 = 16;

/// A `Slice` along one axis, every element of a stretch.
struct Cut {
    axis: usize,
    /// Which of the starts is its.
    at: usize,
    /// The start where it is constant.
    start: Option<i64>,
}

/// The gradient between zeros, or scattered among them where that is not known to be enough.
pub(crate) fn slice(node: &mut Backward) -> Result<(), Reason> {
    let g = node.sole_gradient()?;
    let Some((cuts, rank)) = cuts(node) else { return scattered(node, &g) };
    let none = node.integers(&[0]);
    let (mut before, mut after) = (vec![none.clone(); rank], vec![none; rank]);
    for cut in &cuts {
        (before[cut.axis], after[cut.axis]) = around(node, &g, cut)?;
    }
    let pads: Vec<&ValueRef> = before.iter().chain(&after).collect();
    let pads = node.op_with("Concat", &pads, [int("axis", 0)]);
    let zero = node.scalar(0.0);
    let gradient = node.op("Pad", &[&g, &pads, &zero]);
    node.give(0, gradient);
    Ok(())
}

/// The cuts of a slice, and the rank of what is cut; `None` where they are not known, or one takes other than every element.
fn cuts(node: &Backward) -> Option<(Vec<Cut>, usize)> {
    let (ty, starts) = (node.x_type(0), node.x_integers(1));
    let count = starts.as_ref().map(|starts| starts.len() as i64).or(node.x_type(1).dim(0).fixed())?;
    let axes = if node.node().input(3).is_some() { node.x_integers(3)? } else { (0..count).collect() };
    if node.node().input(4).is_some() && node.x_integers(4)?.iter().any(|&step| step != 1) {
        return None;
    }
    let cut = |(at, &axis): (usize, &i64)| {
        let start = starts.as_ref().and_then(|starts| starts.get(at).copied());
        Some(Cut { axis: ty.axis(axis)?, at, start })
    };
    Some((axes.iter().enumerate().map(cut).collect::<Option<_>>()?, ty.rank()?))
}

/// The numbers of elements before and behind a cut.
fn around(node: &mut Backward, g: &ValueRef, cut: &Cut) -> Result<(ValueRef, ValueRef), Reason> {
    let x = node.x(0)?;
    let (length, kept) = (node.length(&x, cut.axis as i64), node.length(g, cut.axis as i64));
    let zero = node.integers(&[0]);
    let before = match cut.start {
        Some(0) => zero,
        start => {
            let start = match start {
                Some(start) => node.integers(&[start]),
                None => {
                    let (starts, at) = (node.x(1)?, node.integers(&[cut.at as i64]));
                    let start = node.op("Gather", &[&starts, &at]);
                    node.op_with("Cast", &[&start], [int("to", DataType::Int64 as i64)])
                }
            };
            let from_first = counted_from_first(node, &start, &length);
            let within = node.op("Max", &[&from_first, &zero]);
            node.op("Min", &[&within, &length])
        }
    };
    let rest = node.op("Sub", &[&length, &before]);
    let after = node.op("Sub", &[&rest, &kept]);
    Ok((before, after))
}

/// Indices, of which negative ones count from the end, as counted from the first element.
fn counted_from_first(node: &mut Backward, indices: &ValueRef, length: &ValueRef) -> ValueRef {
    let zero = node.integer(0);
    let is_negative = node.op("Less", &[indices, &zero]);
    let from_end = node.op("Add", &[indices, length]);
    node.op("Where", &[&is_negative, &from_end, indices])
}

/// The gradient scattered to the places that its elements came from: those that the slice picks of all places.
fn scattered(node: &mut Backward, g: &ValueRef) -> Result<(), Reason> {
    let (x, shape) = (node.x(0)?, node.shape_of(0)?);
    let (one, zero, flat) = (node.integer(1), node.integer(0), node.integers(&[-1]));
    let size = node.op("Size", &[&x]);
    let places = node.op("Range", &[&zero, &size, &one]);
    let places = node.op("Reshape", &[&places, &shape]);
    let bounds: Vec<_> = (1..node.node().inputs().len()).map(|port| node.x(port).ok()).collect();
    let inputs = [vec![Some(places)], bounds].concat();
    let places = node.node_of(Op::standard("Slice", Vec::new()), inputs);
    let (places, g) = (node.op("Reshape", &[&places, &flat]), node.op("Reshape", &[g, &flat]));
    let sizes = node.op("Reshape", &[&size, &flat]);
    let zeros = node.zeros(&sizes);
    let gradient = node.op_with("ScatterElements", &[&zeros, &places, &g], [int("axis", 0)]);
    let gradient = node.op("Reshape", &[&gradient, &shape]);
    node.give(0, gradient);
    Ok(())
}

/// The gradient added up at the indices that the elements came from. An embedding table is a constant, of which no gradient is
/// wanted unless one asks for it.
pub(crate) fn gather(node: &mut Backward) -> Result<(), Reason> {
    let g = node.sole_gradient()?;
    if node.opset() < SCATTER_OF_SUMS {
        return Err("before opset 16 no operator adds up what is scattered");
    }
    let (x, indices, rank, picked) = (node.x(0)?, node.x(1)?, node.rank(0)?, node.rank(1)?);
    let axis = node.x_type(0).axis(node.int_or("axis", 0)).ok_or("it has no such axis")?;
    let length = node.length(&x, axis as i64);
    let indices = node.op_with("Cast", &[&indices], [int("to", DataType::Int64 as i64)]);
    // One element does not make a scalar a vector.
    let scalar = node.integers(&[]);
    let length = node.op("Reshape", &[&length, &scalar]);
    let indices = counted_from_first(node, &indices, &length);
    let indices = node.unsqueezed(&indices, &[-1]);
    // The axis comes first, and the axes of the indices in its place.
    let order = |first: std::ops::Range<usize>, count: usize| -> Vec<i64> {
        let rest = (0..count).filter(|at| !first.contains(at));
        first.clone().chain(rest).map(|at| at as i64).collect()
    };
    let results = rank - 1 + picked;
    let updates = permuted(node, &g, &order(axis..axis + picked, results));
    let shape = node.shape_of(0)?;
    let axis_first = order(axis..axis + 1, rank);
    let shape = match axis {
        0 => shape,
        _ => {
            let order = node.integers(&axis_first);
            node.op("Gather", &[&shape, &order])
        }
    };
    let zeros = node.zeros(&shape);
    let sums = node.op_with("ScatterND", &[&zeros, &indices, &updates], [string("reduction", "add")]);
    let mut back = vec![0; rank];
    axis_first.iter().enumerate().for_each(|(to, &from)| back[from as usize] = to as i64);
    let gradient = permuted(node, &sums, &back);
    node.give(0, gradient);
    Ok(())
}

fn permuted(node: &mut Backward, x: &ValueRef, order: &[i64]) -> ValueRef {
    if order.is_sorted() {
        return x.clone();
    }
    node.op_with("Transpose", &[x], [ints("perm", order)])
}
