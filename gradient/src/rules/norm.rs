//! Normalizations over the last axes.

use zqc_ir::ValueRef;

use crate::backward::{Backward, Reason};

/// What is subtracted before elements are scaled to a variance of 1.
#[derive(Clone, Copy, PartialEq)]
enum Center {
    /// Their mean.
    Mean,
    /// Nothing.
    Zero,
}

/// `LayerNormalization`: x, scale, bias.
pub(crate) fn layer(node: &mut Backward) -> Result<(), Reason> {
    let (g, x) = (node.sole_gradient()?, node.x(0)?);
    let axes = axes(node)?;
    let gradient = normalization(node, &g, &x, 1, Center::Mean, &axes)?;
    let whole = node.x_type(0);
    if node.wants(2) {
        node.give_sum(2, g, &whole);
    }
    node.give(0, gradient);
    Ok(())
}

/// `RMSNormalization` and `SimplifiedLayerNormalization`: x, scale.
pub(crate) fn root_mean_square(node: &mut Backward) -> Result<(), Reason> {
    let (g, x) = (node.sole_gradient()?, node.x(0)?);
    let axes = axes(node)?;
    let gradient = normalization(node, &g, &x, 1, Center::Zero, &axes)?;
    node.give(0, gradient);
    Ok(())
}

/// `SkipLayerNormalization`: x, skip, scale, beta, bias.
pub(crate) fn skip_layer(node: &mut Backward) -> Result<(), Reason> {
    if let Some(g) = node.gradient(0).filter(|_| node.wants(3)) {
        let whole = node.x_type(0);
        node.give_sum(3, g, &whole);
    }
    skip(node, Center::Mean, 4)
}

/// `SkipSimplifiedLayerNormalization`: x, skip, scale, bias.
pub(crate) fn skip_root_mean_square(node: &mut Backward) -> Result<(), Reason> {
    skip(node, Center::Zero, 3)
}

/// A normalization of a sum, which is the fourth output.
fn skip(node: &mut Backward, center: Center, bias: usize) -> Result<(), Reason> {
    if node.gradient(1).or(node.gradient(2)).is_some() {
        return Err("a gradient reaches the mean or the variance");
    }
    let (x, skip, whole) = (node.x(0)?, node.x(1)?, node.x_type(0));
    let of_sum = node.gradient(3);
    let gradient = match node.gradient(0) {
        None => of_sum.ok_or("no gradient reaches its results")?,
        Some(g) => {
            let mut sum = node.op("Add", &[&x, &skip]);
            if let Ok(bias) = node.x(bias) {
                sum = node.op("Add", &[&sum, &bias]);
            }
            let of_norm = normalization(node, &g, &sum, 2, center, &[-1])?;
            match of_sum {
                Some(of_sum) => node.op("Add", &[&of_norm, &of_sum]),
                None => of_norm,
            }
        }
    };
    node.give(0, gradient.clone());
    for port in [1, bias] {
        if node.wants(port) {
            node.give_sum(port, gradient.clone(), &whole);
        }
    }
    Ok(())
}

/// The axes that are normalized over, from the last one.
fn axes(node: &Backward) -> Result<Vec<i64>, Reason> {
    let axis = match node.int_or("axis", -1) {
        axis if axis < 0 => axis,
        axis => axis - node.rank(0)? as i64,
    };
    Ok((axis..0).collect())
}

/// With `n` the normalized elements, `r` the reciprocal of their deviation and `s` the scale at input `scale`: `g n` for the scale, and for
/// the elements `r (g s - mean(g s) - n mean(g s n))`, without the first mean where none is subtracted.
fn normalization(
    node: &mut Backward,
    g: &ValueRef,
    x: &ValueRef,
    scale: usize,
    center: Center,
    axes: &[i64],
) -> Result<ValueRef, Reason> {
    let (epsilon, whole) = (node.float_or("epsilon", 1e-5), node.x_type(0));
    let epsilon = node.scalar(epsilon);
    let centered = centered(node, x, center, axes);
    let square = node.op("Mul", &[&centered, &centered]);
    let variance = node.mean(&square, axes);
    let variance = node.op("Add", &[&variance, &epsilon]);
    let deviation = node.op("Sqrt", &[&variance]);
    let n = node.op("Div", &[&centered, &deviation]);
    if node.wants(scale) {
        let gradient = node.op("Mul", &[g, &n]);
        node.give_sum(scale, gradient, &whole);
    }
    let scale = node.x(scale)?;
    let scaled = node.op("Mul", &[g, &scale]);
    let along = node.op("Mul", &[&scaled, &n]);
    let along = node.mean(&along, axes);
    let along = node.op("Mul", &[&n, &along]);
    let across = self::centered(node, &scaled, center, axes);
    let across = node.op("Sub", &[&across, &along]);
    Ok(node.op("Div", &[&across, &deviation]))
}

fn centered(node: &mut Backward, x: &ValueRef, center: Center, axes: &[i64]) -> ValueRef {
    if center == Center::Zero {
        return x.clone();
    }
    let mean = node.mean(x, axes);
    node.op("Sub", &[x, &mean])
}
