//! Normalizations.

use crate::differences::{check_body, random};

#[test]
fn normalizations_of_the_last_axes() {
    for declared in ["2, 3, 4", "a, b, 4"] {
        for op in ["RMSNormalization", "SimplifiedLayerNormalization"] {
            let inputs = [("x", random(1, &[2, 3, 4])), ("s", random(2, &[4]))];
            let body = format!("%y = {op}(%x, %s) {{axis = -1, epsilon = 1e-2}}");
            check_body("23", &format!("%x: f32[{declared}], %s: f32[4]"), &body, &inputs);
        }
        let inputs = [("x", random(1, &[2, 3, 4])), ("s", random(2, &[4])), ("b", random(3, &[4]))];
        let body = "%y = LayerNormalization(%x, %s, %b) {epsilon = 1e-2}";
        check_body("17", &format!("%x: f32[{declared}], %s: f32[4], %b: f32[4]"), body, &inputs);
    }
    let inputs = [("x", random(1, &[2, 3, 4])), ("s", random(2, &[3, 4]))];
    let body = "%y = LayerNormalization(%x, %s) {axis = 1, epsilon = 1e-2}";
    check_body("20", "%x: f32[2, 3, 4], %s: f32[3, 4]", body, &inputs);
}

#[test]
fn normalizations_of_a_sum_that_is_read_too() {
    let declared = "%x: f32[2, 3, 4], %k: f32[2, 3, 4], %s: f32[4], %b: f32[4]";
    let inputs = [
        ("x", random(1, &[2, 3, 4])),
        ("k", random(2, &[2, 3, 4])),
        ("s", random(3, &[4])),
        ("b", random(4, &[4])),
    ];
    for op in ["SkipSimplifiedLayerNormalization(%x, %k, %s, %b)", "SkipLayerNormalization(%x, %k, %s, %b)"] {
        for product in ["%n, %n", "%sum, %sum", "%n, %sum"] {
            let body =
                format!("%n, _, _, %sum = com.microsoft::{op} {{epsilon = 1e-2}}\n%y = Mul({product})");
            let mut inputs = inputs.to_vec();
            // What no gradient reaches is not asked for.
            if product == "%sum, %sum" {
                inputs.truncate(2);
            }
            let text = body.clone();
            if product == "%sum, %sum" {
                let constants = "const %s: f32[4] = splat<0.5>\nconst %b: f32[4] = splat<0.25>\n";
                let declared = "%x: f32[2, 3, 4], %k: f32[2, 3, 4]";
                check_body("20, com.microsoft=1", declared, &format!("{constants}{text}"), &inputs);
            } else {
                check_body("20, com.microsoft=1", declared, &text, &inputs);
            }
        }
    }
}
