//! Operators that pick elements: what was not picked gets zeros.

use zqc_ir::ValueRef;
use zqc_ir::op::attribute::{int, ints, string};
use zqc_ir::tensor::DataType;

use crate::backward::{Backward, Reason};

/// The first opset in which `ScatterND` adds up.
const SCATTER_OF_SUMS: i64 = 16;

/// A `Slice` along one axis.
struct Cut {
    axis: usize,
    /// Which of the starts is its.
    at: usize,
    /// The start where it is constant.
    start: Option<i64>,
}

/// The gradient between zeros.
pub(crate) fn slice(node: &mut Backward) -> Result<(), Reason> {
    let (g, rank) = (node.sole_gradient()?, node.rank(0)?);
    let ty = node.x_type(0);
    let starts = node.x_integers(1);
    let count = starts.as_ref().map(|starts| starts.len() as i64).or(node.x_type(1).dim(0).fixed());
    let count = count.ok_or("the number of its axes is unknown")?;
    let axes = match node.node().input(3) {
        None => (0..count).collect(),
        Some(_) => node.x_integers(3).ok_or("its axes are not constant")?,
    };
    let steps = match node.node().input(4) {
        None => vec![1; axes.len()],
        Some(_) => node.x_integers(4).ok_or("its steps are not constant")?,
    };
    if let ([axis], [step]) = (&axes[..], &steps[..])
        && *step != 1
    {
        return strided(node, &g, *axis);
    }
    if steps.iter().any(|&step| step != 1) {
        return Err("it has several axes, and a step other than 1");
    }
    let cut = |(at, &axis): (usize, &i64)| {
        let start = starts.as_ref().and_then(|starts| starts.get(at).copied());
        Some(Cut { axis: ty.axis(axis)?, at, start })
    };
    let cuts: Option<Vec<Cut>> = axes.iter().enumerate().map(cut).collect();
    let cuts = cuts.ok_or("it has no such axis")?;
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

/// The gradient scattered to where the elements of a slice along one axis came from.
fn strided(node: &mut Backward, g: &ValueRef, axis: i64) -> Result<(), Reason> {
    let rank = node.rank(0)?;
    let axis = node.x_type(0).axis(axis).ok_or("it has no such axis")?;
    let (x, starts, ends, steps) = (node.x(0)?, node.x(1)?, node.x(2)?, node.x(4)?);
    let (first, one, zero) = (node.integers(&[0]), node.integer(1), node.integer(0));
    let length = node.length(&x, axis as i64);
    let scalar = node.integers(&[]);
    let end = node.op("Reshape", &[&length, &scalar]);
    let places = node.op("Range", &[&zero, &end, &one]);
    let places = node.op("Slice", &[&places, &starts, &ends, &first, &steps]);
    let inner: Vec<i64> = (1..(rank - axis) as i64).collect();
    let places = if inner.is_empty() { places } else { node.unsqueezed(&places, &inner) };
    let shape = node.shape(g);
    let places = node.op("Expand", &[&places, &shape]);
    let shape = node.shape_of(0)?;
    let zeros = node.zeros(&shape);
    let gradient = node.op_with("ScatterElements", &[&zeros, &places, g], [int("axis", axis as i64)]);
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
