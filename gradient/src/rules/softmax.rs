//! `Softmax` and `LogSoftmax`, along one axis as from opset 13 on.

use crate::backward::{Backward, Reason};

/// `y (g - Σ g y)`.
pub(crate) fn softmax(node: &mut Backward) -> Result<(), Reason> {
    let (g, y, axis) = (node.sole_gradient()?, node.y(0)?, node.int_or("axis", -1));
    let product = node.op("Mul", &[&g, &y]);
    let mean = node.sum(product, &[axis], true);
    let centered = node.op("Sub", &[&g, &mean]);
    let gradient = node.op("Mul", &[&y, &centered]);
    node.give(0, gradient);
    Ok(())
}

/// `g - exp(y) Σ g`.
pub(crate) fn log_softmax(node: &mut Backward) -> Result<(), Reason> {
    let (g, y, axis) = (node.sole_gradient()?, node.y(0)?, node.int_or("axis", -1));
    let probabilities = node.op("Exp", &[&y]);
    let sum = node.sum(g.clone(), &[axis], true);
    let shared = node.op("Mul", &[&probabilities, &sum]);
    let gradient = node.op("Sub", &[&g, &shared]);
    node.give(0, gradient);
    Ok(())
}
