//! Arithmetic and functions of single elements.

use zqc_runtime::Array;

use crate::differences::{between, check_body, random};

#[test]
fn arithmetic_with_operands_that_are_broadcast() {
    let shapes: [(&str, &str, [&[usize]; 2]); 6] = [
        ("2, 3", "2, 3", [&[2, 3], &[2, 3]]),
        ("2, 3", "3", [&[2, 3], &[3]]),
        ("2, 1", "1, 3", [&[2, 1], &[1, 3]]),
        ("", "2, 3", [&[], &[2, 3]]),
        // The symbols do not say whether an axis is broadcast, and one is.
        ("s, t", "u, t", [&[1, 3], &[2, 3]]),
        ("?, ?, ?", "?, ?", [&[2, 1, 3], &[4, 1]]),
    ];
    for (a, b, [shape_a, shape_b]) in shapes {
        for op in ["Add", "Sub", "Mul", "Div"] {
            let inputs = [("a", random(1, shape_a)), ("b", between(0.5, 2.0, shape_b))];
            check_body("20", &format!("%a: f32[{a}], %b: f32[{b}]"), &format!("%y = {op}(%a, %b)"), &inputs);
        }
    }
}

#[test]
fn operands_of_unknown_rank_are_summed_when_the_model_runs() {
    let inputs = [("a", random(1, &[2, 1])), ("b", random(2, &[3]))];
    check_body("13", "%a: f32, %b: f32", "%y = Mul(%a, %b)", &inputs);
    let inputs = [("a", random(1, &[2, 3])), ("b", random(2, &[2, 3]))];
    check_body("20", "%a: f32, %b: f32", "%y = Sub(%a, %b)", &inputs);
}

#[test]
fn a_value_that_is_read_several_times_gets_the_sum() {
    let body = "%s = Mul(%x, %x)\n%t = Add(%s, %x)\n%y = Sub(%t, %s)\n";
    check_body("20", "%x: f32[2, 3]", body, &[("x", random(1, &[2, 3]))]);
    check_body("20", "%x: f32[2, 3]", "%y = Sum(%x, %x, %x)", &[("x", random(1, &[2, 3]))]);
}

#[test]
fn functions() {
    for op in ["Neg", "Exp", "Erf", "Sin", "Cos", "Identity"] {
        check_body("20", "%x: f32[2, 5]", &format!("%y = {op}(%x)"), &[("x", random(1, &[2, 5]))]);
    }
    for op in ["Sqrt", "Log", "Reciprocal", "Abs"] {
        check_body("20", "%x: f32[2, 5]", &format!("%y = {op}(%x)"), &[("x", between(0.5, 2.0, &[2, 5]))]);
    }
    check_body("20", "%x: f32[2, 5]", "%y = Abs(%x)", &[("x", between(-2.0, -0.5, &[2, 5]))]);
}

#[test]
fn powers() {
    for exponent in ["2.0", "3.0", "0.5", "-1.5"] {
        let body = format!("const %p: f32[] = dense<{exponent}>\n%y = Pow(%x, %p)");
        check_body("20", "%x: f32[2, 3]", &body, &[("x", between(0.5, 1.5, &[2, 3]))]);
    }
    let body = "const %p: f32[] = dense<2.0>\n%y = Pow(%x, %p)";
    check_body("20", "%x: f32[2, 3]", body, &[("x", random(1, &[2, 3]))]);
}

#[test]
fn choices() {
    let numbers = |values: &[f32]| Array::new(vec![values.len()], values.to_vec()).unwrap();
    let body = "const %low: f32[] = dense<-0.5>\nconst %high: f32[] = dense<0.5>\n%y = Clip(%x, %low, %high)";
    check_body("20", "%x: f32[n]", body, &[("x", numbers(&[-0.9, -0.4, 0.1, 0.4, 0.9]))]);
    let inputs = [("a", numbers(&[-0.9, 0.4, 0.1])), ("b", numbers(&[0.2]))];
    for op in ["Max", "Min"] {
        check_body("20", "%a: f32[3], %b: f32[1]", &format!("%y = {op}(%a, %b)"), &inputs);
    }
    let condition = Array::new(vec![2, 1], vec![true, false]).unwrap();
    let inputs = [("c", condition), ("a", random(1, &[2, 3])), ("b", random(2, &[3]))];
    check_body("20", "%c: bool[2, 1], %a: f32[2, 3], %b: f32[3]", "%y = Where(%c, %a, %b)", &inputs);
}

#[test]
fn casts_between_floats() {
    let body = "%d = Cast(%x) {to = 1}\n%y = Mul(%d, %d)";
    check_body("20", "%x: f32[2, 3]", body, &[("x", random(1, &[2, 3]))]);
}
