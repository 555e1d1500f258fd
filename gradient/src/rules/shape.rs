//! Operators that move elements as a whole: shapes, orders of axes, parts side by side.

use zqc_ir::op::attribute::{int, ints};

use crate::backward::{Backward, Reason};

/// Every operator that keeps elements and their order.
pub(crate) fn reshape(node: &mut Backward) -> Result<(), Reason> {
    let (g, shape) = (node.sole_gradient()?, node.shape_of(0)?);
    let gradient = node.op("Reshape", &[&g, &shape]);
    node.give(0, gradient);
    Ok(())
}

pub(crate) fn transpose(node: &mut Backward) -> Result<(), Reason> {
    let g = node.sole_gradient()?;
    let gradient = match node.proto()?.ints("perm") {
        // The order of axes is reversed.
        None => node.op("Transpose", &[&g]),
        Some(order) => {
            let mut inverse = vec![0; order.len()];
            for (to, &from) in order.iter().enumerate() {
                let place = usize::try_from(from).ok().and_then(|from| inverse.get_mut(from));
                *place.ok_or("its order of axes is none")? = to as i64;
            }
            node.op_with("Transpose", &[&g], [ints("perm", &inverse)])
        }
    };
    node.give(0, gradient);
    Ok(())
}

pub(crate) fn expand(node: &mut Backward) -> Result<(), Reason> {
    let (g, whole) = (node.sole_gradient()?, node.y_type(0));
    node.give_sum(0, g, &whole);
    Ok(())
}

/// The gradient is split where the values meet.
pub(crate) fn concat(node: &mut Backward) -> Result<(), Reason> {
    let (g, axis) = (node.sole_gradient()?, node.int_or("axis", 0));
    let ports = 0..node.node().inputs().len();
    let fixed: Option<Vec<i64>> = ports.clone().map(|port| node.x_type(port).dim(axis).fixed()).collect();
    let lengths = match fixed {
        Some(lengths) => node.integers(&lengths),
        None => {
            let values = ports.clone().map(|port| node.x(port)).collect::<Result<Vec<_>, _>>()?;
            let lengths: Vec<_> = values.iter().map(|value| node.length(value, axis)).collect();
            let lengths: Vec<_> = lengths.iter().collect();
            node.op_with("Concat", &lengths, [int("axis", 0)])
        }
    };
    let parts = node.op_of_several("Split", &[&g, &lengths], [int("axis", axis)], ports.len());
    for (port, part) in parts.into_iter().enumerate() {
        node.give(port, part);
    }
    Ok(())
}

/// The gradients side by side, zeros where none reaches a part.
pub(crate) fn split(node: &mut Backward) -> Result<(), Reason> {
    let axis = node.int_or("axis", 0);
    let mut parts = Vec::new();
    for port in 0..node.node().outputs().len() {
        let part = match node.gradient(port) {
            Some(gradient) => gradient,
            None => {
                let y = node.y(port)?;
                let shape = node.shape(&y);
                node.zeros(&shape)
            }
        };
        parts.push(part);
    }
    let parts: Vec<_> = parts.iter().collect();
    let gradient = node.op_with("Concat", &parts, [int("axis", axis)]);
    node.give(0, gradient);
    Ok(())
}
