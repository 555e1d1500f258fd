//! Rotary embeddings: a rotation, whose transpose turns the other way.

use crate::backward::{Backward, Reason};

/// Inputs: x, cosines, sines, positions.
pub(crate) fn standard(node: &mut Backward) -> Result<(), Reason> {
    turned_back(node, 2)
}

/// Inputs: x, positions, cosines, sines.
pub(crate) fn contrib(node: &mut Backward) -> Result<(), Reason> {
    turned_back(node, 3)
}

/// The operator itself on the gradient, with the sines at input `sines` negated.
fn turned_back(node: &mut Backward, sines: usize) -> Result<(), Reason> {
    let g = node.sole_gradient()?;
    let count = node.node().inputs().len();
    if (1..count).any(|port| node.wants(port)) {
        return Err("a gradient with respect to its angles is wanted");
    }
    let sine = node.x(sines)?;
    let negative = node.op("Neg", &[&sine]);
    let mut inputs: Vec<_> = (0..count).map(|port| node.x(port).ok()).collect();
    (inputs[0], inputs[sines]) = (Some(g), Some(negative));
    let gradient = node.node_of(node.node().op.clone(), inputs);
    node.give(0, gradient);
    Ok(())
}
