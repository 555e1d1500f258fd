//! Arithmetic and functions of single elements.

use std::f32::consts::FRAC_2_SQRT_PI;

use zqc_ir::op::attribute::int;

use crate::backward::{Backward, Reason};

pub(crate) fn identity(node: &mut Backward) -> Result<(), Reason> {
    let g = node.sole_gradient()?;
    node.give(0, g);
    Ok(())
}

pub(crate) fn dropout(node: &mut Backward) -> Result<(), Reason> {
    if node.node().input(2).is_some() {
        return Err("it may drop elements, as it does in training");
    }
    identity(node)
}

pub(crate) fn cast(node: &mut Backward) -> Result<(), Reason> {
    let g = node.sole_gradient()?;
    let dtype = node.x_type(0).dtype.ok_or("the element type of its input is unknown")?;
    let gradient = node.op_with("Cast", &[&g], [int("to", dtype as i64)]);
    node.give(0, gradient);
    Ok(())
}

pub(crate) fn add(node: &mut Backward) -> Result<(), Reason> {
    let (g, whole) = (node.sole_gradient()?, node.y_type(0));
    for port in 0..node.node().inputs().len() {
        if node.wants(port) {
            node.give_sum(port, g.clone(), &whole);
        }
    }
    Ok(())
}

pub(crate) fn sub(node: &mut Backward) -> Result<(), Reason> {
    let (g, whole) = (node.sole_gradient()?, node.y_type(0));
    node.give_sum(0, g.clone(), &whole);
    if node.wants(1) {
        let negative = node.op("Neg", &[&g]);
        node.give_sum(1, negative, &whole);
    }
    Ok(())
}

pub(crate) fn mul(node: &mut Backward) -> Result<(), Reason> {
    let (g, whole) = (node.sole_gradient()?, node.y_type(0));
    for (port, other) in [(0, 1), (1, 0)] {
        if node.wants(port) {
            let other = node.x(other)?;
            let gradient = node.op("Mul", &[&g, &other]);
            node.give_sum(port, gradient, &whole);
        }
    }
    Ok(())
}

/// `g / b`, and `-(g / b) y`.
pub(crate) fn div(node: &mut Backward) -> Result<(), Reason> {
    let (g, whole) = (node.sole_gradient()?, node.y_type(0));
    let (b, y) = (node.x(1)?, node.y(0)?);
    let quotient = node.op("Div", &[&g, &b]);
    if node.wants(0) {
        node.give_sum(0, quotient.clone(), &whole);
    }
    if node.wants(1) {
        let product = node.op("Mul", &[&quotient, &y]);
        let negative = node.op("Neg", &[&product]);
        node.give_sum(1, negative, &whole);
    }
    Ok(())
}

/// `g p x^(p - 1)`.
pub(crate) fn pow(node: &mut Backward) -> Result<(), Reason> {
    let (g, x, whole) = (node.sole_gradient()?, node.x(0)?, node.y_type(0));
    if node.wants(1) {
        return Err("a gradient with respect to its exponent is wanted");
    }
    let exponent = node.x_constant(1).ok_or("its exponent is not constant")?;
    let values = exponent.to_f32().ok();
    let integers = || Some(exponent.to_i64().ok()?.into_iter().map(|value| value as f32).collect());
    let values: Vec<f32> = values.or_else(integers).ok_or("its exponent is of no type that is read")?;
    let [exponent] = values[..] else { return Err("its exponent is no single number") };
    let power = if exponent == 2.0 {
        x
    } else {
        let less = node.scalar(exponent - 1.0);
        node.op("Pow", &[&x, &less])
    };
    let slope = node.scaled(power, exponent);
    let gradient = node.op("Mul", &[&g, &slope]);
    node.give_sum(0, gradient, &whole);
    Ok(())
}

pub(crate) fn neg(node: &mut Backward) -> Result<(), Reason> {
    let g = node.sole_gradient()?;
    let gradient = node.op("Neg", &[&g]);
    node.give(0, gradient);
    Ok(())
}

/// `g / 2 y`.
pub(crate) fn sqrt(node: &mut Backward) -> Result<(), Reason> {
    let (g, y) = (node.sole_gradient()?, node.y(0)?);
    let half = node.scaled(g, 0.5);
    let gradient = node.op("Div", &[&half, &y]);
    node.give(0, gradient);
    Ok(())
}

/// `-g y²`.
pub(crate) fn reciprocal(node: &mut Backward) -> Result<(), Reason> {
    let (g, y) = (node.sole_gradient()?, node.y(0)?);
    let square = node.op("Mul", &[&y, &y]);
    let slope = node.op("Neg", &[&square]);
    let gradient = node.op("Mul", &[&g, &slope]);
    node.give(0, gradient);
    Ok(())
}

pub(crate) fn exp(node: &mut Backward) -> Result<(), Reason> {
    let (g, y) = (node.sole_gradient()?, node.y(0)?);
    let gradient = node.op("Mul", &[&g, &y]);
    node.give(0, gradient);
    Ok(())
}

pub(crate) fn log(node: &mut Backward) -> Result<(), Reason> {
    let (g, x) = (node.sole_gradient()?, node.x(0)?);
    let gradient = node.op("Div", &[&g, &x]);
    node.give(0, gradient);
    Ok(())
}

pub(crate) fn abs(node: &mut Backward) -> Result<(), Reason> {
    times_function(node, "Sign", 1.0)
}

pub(crate) fn sin(node: &mut Backward) -> Result<(), Reason> {
    times_function(node, "Cos", 1.0)
}

pub(crate) fn cos(node: &mut Backward) -> Result<(), Reason> {
    times_function(node, "Sin", -1.0)
}

/// `factor g f(x)`.
fn times_function(node: &mut Backward, op_type: &str, factor: f32) -> Result<(), Reason> {
    let (g, x) = (node.sole_gradient()?, node.x(0)?);
    let value = node.op(op_type, &[&x]);
    let slope = node.scaled(value, factor);
    let gradient = node.op("Mul", &[&g, &slope]);
    node.give(0, gradient);
    Ok(())
}

/// `g 2/√π exp(-x²)`.
pub(crate) fn erf(node: &mut Backward) -> Result<(), Reason> {
    let (g, x) = (node.sole_gradient()?, node.x(0)?);
    let square = node.op("Mul", &[&x, &x]);
    let negative = node.op("Neg", &[&square]);
    let bell = node.op("Exp", &[&negative]);
    let slope = node.scaled(bell, FRAC_2_SQRT_PI);
    let gradient = node.op("Mul", &[&g, &slope]);
    node.give(0, gradient);
    Ok(())
}

/// The gradient where the element is within the bounds, which have none.
pub(crate) fn clip(node: &mut Backward) -> Result<(), Reason> {
    let (g, x, y) = (node.sole_gradient()?, node.x(0)?, node.y(0)?);
    if node.wants(1) || node.wants(2) {
        return Err("a gradient with respect to a bound is wanted");
    }
    let kept = node.op("Equal", &[&x, &y]);
    let zero = node.scalar(0.0);
    let gradient = node.op("Where", &[&kept, &g, &zero]);
    node.give(0, gradient);
    Ok(())
}

/// `Max` and `Min`: the gradient where the element is the result.
pub(crate) fn extreme(node: &mut Backward) -> Result<(), Reason> {
    let (g, y, whole) = (node.sole_gradient()?, node.y(0)?, node.y_type(0));
    let zero = node.scalar(0.0);
    for port in 0..node.node().inputs().len() {
        if node.wants(port) {
            let x = node.x(port)?;
            let chosen = node.op("Equal", &[&x, &y]);
            let gradient = node.op("Where", &[&chosen, &g, &zero]);
            node.give_sum(port, gradient, &whole);
        }
    }
    Ok(())
}

/// `Where`.
pub(crate) fn choose(node: &mut Backward) -> Result<(), Reason> {
    let (g, condition, whole) = (node.sole_gradient()?, node.x(0)?, node.y_type(0));
    let zero = node.scalar(0.0);
    if node.wants(1) {
        let gradient = node.op("Where", &[&condition, &g, &zero]);
        node.give_sum(1, gradient, &whole);
    }
    if node.wants(2) {
        let gradient = node.op("Where", &[&condition, &zero, &g]);
        node.give_sum(2, gradient, &whole);
    }
    Ok(())
}
