//! Activation functions.

use std::f32::consts::{FRAC_1_SQRT_2, PI};

use zqc_ir::ValueRef;

use crate::backward::{Backward, Reason};

/// `g slope` for the first input.
fn give_product(node: &mut Backward, slope: &ValueRef) -> Result<(), Reason> {
    let g = node.sole_gradient()?;
    let gradient = node.op("Mul", &[&g, slope]);
    node.give(0, gradient);
    Ok(())
}

/// `g y (1 - y)`.
pub(crate) fn sigmoid(node: &mut Backward) -> Result<(), Reason> {
    let y = node.y(0)?;
    let slope = logistic_slope(node, &y);
    give_product(node, &slope)
}

/// `s (1 - s)` of a logistic function's value.
fn logistic_slope(node: &mut Backward, s: &ValueRef) -> ValueRef {
    let one = node.scalar(1.0);
    let rest = node.op("Sub", &[&one, s]);
    node.op("Mul", &[s, &rest])
}

/// `g (1 - y²)`.
pub(crate) fn tanh(node: &mut Backward) -> Result<(), Reason> {
    let (y, one) = (node.y(0)?, node.scalar(1.0));
    let square = node.op("Mul", &[&y, &y]);
    let slope = node.op("Sub", &[&one, &square]);
    give_product(node, &slope)
}

pub(crate) fn softplus(node: &mut Backward) -> Result<(), Reason> {
    let x = node.x(0)?;
    let slope = node.op("Sigmoid", &[&x]);
    give_product(node, &slope)
}

pub(crate) fn relu(node: &mut Backward) -> Result<(), Reason> {
    leaky(node, 0.0)
}

pub(crate) fn leaky_relu(node: &mut Backward) -> Result<(), Reason> {
    let alpha = node.float_or("alpha", 0.01);
    leaky(node, alpha)
}

fn leaky(node: &mut Backward, alpha: f32) -> Result<(), Reason> {
    let (x, zero) = (node.x(0)?, node.scalar(0.0));
    let (one, alpha) = (node.scalar(1.0), node.scalar(alpha));
    let positive = node.op("Greater", &[&x, &zero]);
    let slope = node.op("Where", &[&positive, &one, &alpha]);
    give_product(node, &slope)
}

/// `alpha` where the result is between 0 and 1.
pub(crate) fn hard_sigmoid(node: &mut Backward) -> Result<(), Reason> {
    let (y, alpha) = (node.y(0)?, node.float_or("alpha", 0.2));
    let inside = strictly_inside(node, &y);
    let (alpha, zero) = (node.scalar(alpha), node.scalar(0.0));
    let slope = node.op("Where", &[&inside, &alpha, &zero]);
    give_product(node, &slope)
}

/// Whether elements are above 0 and below 1.
fn strictly_inside(node: &mut Backward, x: &ValueRef) -> ValueRef {
    let (zero, one) = (node.scalar(0.0), node.scalar(1.0));
    let above = node.op("Greater", &[x, &zero]);
    let below = node.op("Less", &[x, &one]);
    node.op("And", &[&above, &below])
}

/// With `h` the clipped `x / 6 + 1 / 2`: `g h`, and besides `g x / 6` where nothing is clipped.
pub(crate) fn hard_swish(node: &mut Backward) -> Result<(), Reason> {
    let (x, half) = (node.x(0)?, node.scalar(0.5));
    let sixth = node.scaled(x, 1.0 / 6.0);
    let line = node.op("Add", &[&sixth, &half]);
    let inside = strictly_inside(node, &line);
    let (zero, one) = (node.scalar(0.0), node.scalar(1.0));
    let clipped = node.op("Clip", &[&line, &zero, &one]);
    let steep = node.op("Add", &[&clipped, &sixth]);
    let slope = node.op("Where", &[&inside, &steep, &clipped]);
    give_product(node, &slope)
}

pub(crate) fn swish(node: &mut Backward) -> Result<(), Reason> {
    let alpha = node.float_or("alpha", 1.0);
    swish_of(node, alpha)
}

pub(crate) fn quick_gelu(node: &mut Backward) -> Result<(), Reason> {
    let alpha = node.float_or("alpha", 1.702);
    swish_of(node, alpha)
}

/// With `s` the logistic function of `alpha x`: `g (s + alpha x s (1 - s))`.
fn swish_of(node: &mut Backward, alpha: f32) -> Result<(), Reason> {
    let x = node.x(0)?;
    let steep = node.scaled(x, alpha);
    let s = node.op("Sigmoid", &[&steep]);
    let logistic = logistic_slope(node, &s);
    let turning = node.op("Mul", &[&steep, &logistic]);
    let slope = node.op("Add", &[&s, &turning]);
    give_product(node, &slope)
}

pub(crate) fn gelu(node: &mut Backward) -> Result<(), Reason> {
    let approximate = node.proto()?.find_attribute("approximate").and_then(|attribute| attribute.s.clone());
    let x = node.x(0)?;
    let slope = match approximate.as_deref() {
        None | Some(b"none") => gelu_slope(node, &x),
        Some(b"tanh") => gelu_slope_by_tanh(node, &x),
        Some(_) => return Err("its approximation is unknown"),
    };
    give_product(node, &slope)
}

/// `Φ(x) + x φ(x)`.
fn gelu_slope(node: &mut Backward, x: &ValueRef) -> ValueRef {
    let (one, scaled) = (node.scalar(1.0), node.scaled(x.clone(), FRAC_1_SQRT_2));
    let erf = node.op("Erf", &[&scaled]);
    let twice = node.op("Add", &[&erf, &one]);
    let below = node.scaled(twice, 0.5);
    let half_square = node.op("Mul", &[&scaled, &scaled]);
    let negative = node.op("Neg", &[&half_square]);
    let bell = node.op("Exp", &[&negative]);
    let density = node.scaled(bell, 1.0 / (2.0 * PI).sqrt());
    let moment = node.op("Mul", &[x, &density]);
    node.op("Add", &[&below, &moment])
}

/// With `t` the tangent of `u = √(2/π) (x + 0.044715 x³)`: `(1 + t) / 2 + x (1 - t²) u' / 2`.
fn gelu_slope_by_tanh(node: &mut Backward, x: &ValueRef) -> ValueRef {
    const CUBIC: f32 = 0.044715;
    let factor = (2.0 / PI).sqrt();
    let one = node.scalar(1.0);
    let square = node.op("Mul", &[x, x]);
    let mut polynomial = |cubic: f32| {
        let term = node.scaled(square.clone(), cubic);
        let sum = node.op("Add", &[&term, &one]);
        node.scaled(sum, factor)
    };
    let (inner, inner_slope) = (polynomial(CUBIC), polynomial(3.0 * CUBIC));
    let u = node.op("Mul", &[x, &inner]);
    let t = node.op("Tanh", &[&u]);
    let rising = node.op("Add", &[&one, &t]);
    let square = node.op("Mul", &[&t, &t]);
    let rest = node.op("Sub", &[&one, &square]);
    let rest = node.op("Mul", &[&rest, &inner_slope]);
    let turning = node.op("Mul", &[x, &rest]);
    let twice = node.op("Add", &[&rising, &turning]);
    node.scaled(twice, 0.5)
}

/// As `Gelu` of `x + bias`.
pub(crate) fn bias_gelu(node: &mut Backward) -> Result<(), Reason> {
    with_bias(node, gelu_slope)
}

/// As `Gelu` of `x`, or of `x + bias`, by tanh.
pub(crate) fn fast_gelu(node: &mut Backward) -> Result<(), Reason> {
    with_bias(node, gelu_slope_by_tanh)
}

fn with_bias(node: &mut Backward, slope: fn(&mut Backward, &ValueRef) -> ValueRef) -> Result<(), Reason> {
    let (g, mut x, whole) = (node.sole_gradient()?, node.x(0)?, node.y_type(0));
    if let Ok(bias) = node.x(1) {
        x = node.op("Add", &[&x, &bias]);
    }
    let slope = slope(node, &x);
    let gradient = node.op("Mul", &[&g, &slope]);
    node.give(0, gradient.clone());
    if node.wants(1) {
        node.give_sum(1, gradient, &whole);
    }
    Ok(())
}
