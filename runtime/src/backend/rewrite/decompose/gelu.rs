//! Activations with a bias.

use super::parts::Parts;

/// `BiasSplitGelu`: the first half of the features of `x + bias`, gated by the second.
pub fn bias_split(parts: &mut Parts) -> Option<()> {
    let x = parts.op("Add", &[parts.input(0)?, parts.input(1)?], Vec::new());
    let halves = parts.reshape(&x, &[0, 0, 2, -1]);
    let [left, right] = [0, 1].map(|at| {
        let half = parts.part(&halves, at, at + 1, 2);
        parts.reshape(&half, &[0, 0, -1])
    });
    let gate = parts.fresh();
    parts.contrib("Gelu", &[&right], vec![gate.clone()], Vec::new());
    let y = parts.op("Mul", &[&left, &gate], Vec::new());
    parts.yield_as(0, &y);
    Some(())
}
