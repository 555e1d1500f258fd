//! Activation functions.

use crate::differences::{between, check_body, random};

#[test]
fn smooth_functions() {
    for op in [
        "Sigmoid(%x)",
        "Tanh(%x)",
        "Softplus(%x)",
        "Gelu(%x)",
        "Gelu(%x) {approximate = \"tanh\"}",
        "com.microsoft::Gelu(%x)",
        "com.microsoft::FastGelu(%x)",
        "com.microsoft::QuickGelu(%x) {alpha = 1.5}",
        "Swish(%x) {alpha = 0.75}",
    ] {
        let inputs = [("x", between(-3.0, 3.0, &[3, 7]))];
        check_body("24, com.microsoft=1", "%x: f32[3, 7]", &format!("%y = {op}"), &inputs);
    }
}

#[test]
fn functions_with_a_bias() {
    for op in ["BiasGelu", "FastGelu"] {
        let inputs = [("x", random(1, &[2, 2, 3])), ("b", random(2, &[3]))];
        let body = format!("%y = com.microsoft::{op}(%x, %b)");
        check_body("20, com.microsoft=1", "%x: f32[a, b, 3], %b: f32[3]", &body, &inputs);
    }
}

#[test]
fn functions_with_corners() {
    for op in ["Relu(%x)", "LeakyRelu(%x) {alpha = 0.3}", "HardSwish(%x)", "HardSigmoid(%x) {alpha = 0.25}"] {
        for (low, high) in [(-1.5, -0.5), (0.5, 1.5), (-6.0, -5.0), (5.0, 6.0)] {
            let inputs = [("x", between(low, high, &[2, 3]))];
            check_body("20", "%x: f32[2, 3]", &format!("%y = {op}"), &inputs);
        }
    }
}
