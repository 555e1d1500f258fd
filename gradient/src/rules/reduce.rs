//! Sums and means along axes.

use zqc_ir::ValueRef;
use zqc_ir::op::attribute::int;

use crate::backward::{Backward, Reason};

pub(crate) fn sum(node: &mut Backward) -> Result<(), Reason> {
    let gradient = spread(node)?;
    let shape = node.shape_of(0)?;
    let gradient = node.op("Expand", &[&gradient, &shape]);
    node.give(0, gradient);
    Ok(())
}

/// As for a sum, by the number of elements that share a mean.
pub(crate) fn mean(node: &mut Backward) -> Result<(), Reason> {
    let (gradient, x, y) = (spread(node)?, node.x(0)?, node.y(0)?);
    let (all, results) = (node.op("Size", &[&x]), node.op("Size", &[&y]));
    let count = node.op("Div", &[&all, &results]);
    let dtype = node.dtype();
    let count = node.op_with("Cast", &[&count], [int("to", dtype as i64)]);
    let gradient = node.op("Div", &[&gradient, &count]);
    let shape = node.shape_of(0)?;
    let gradient = node.op("Expand", &[&gradient, &shape]);
    node.give(0, gradient);
    Ok(())
}

/// `2 g x`.
pub(crate) fn sum_square(node: &mut Backward) -> Result<(), Reason> {
    let (gradient, x) = (spread(node)?, node.x(0)?);
    let twice = node.scaled(x, 2.0);
    let gradient = node.op("Mul", &[&gradient, &twice]);
    node.give(0, gradient);
    Ok(())
}

/// The gradient with the axes that are gone back as axes of length 1.
fn spread(node: &mut Backward) -> Result<ValueRef, Reason> {
    let g = node.sole_gradient()?;
    if node.int_or("keepdims", 1) != 0 {
        return Ok(g);
    }
    let listed = node.proto()?.ints("axes").map(<[i64]>::to_vec);
    let axes = match listed {
        Some(axes) => Some(node.integers(&axes)),
        None => node.x(1).ok(),
    };
    let none = node.x_type(1).dim(0).fixed() == Some(0);
    Ok(match axes.filter(|_| !none) {
        Some(axes) => node.op("Unsqueeze", &[&g, &axes]),
        // Without axes it is the sum of all elements, a scalar, or the value itself.
        None => g,
    })
}
