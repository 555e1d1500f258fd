//! Sums, means and softmax.

use crate::differences::{check_body, random};

#[test]
fn sums_and_means_along_axes() {
    for (declared, axes) in [("2, 3, 4", "-1"), ("a, b, 4", "1"), ("?, ?, ?", "-3"), ("2, 3, 4", "0, -1")] {
        for stays in [0, 1] {
            for op in ["ReduceSum", "ReduceMean", "ReduceSumSquare"] {
                let count = axes.split(',').count();
                let body = format!(
                    "const %axes: i64[{count}] = dense<{axes}>\n%y = {op}(%x, %axes) {{keepdims = {stays}}}"
                );
                check_body("20", &format!("%x: f32[{declared}]"), &body, &[("x", random(1, &[2, 3, 4]))]);
            }
        }
    }
}

#[test]
fn sums_and_means_of_all_elements() {
    for stays in [0, 1] {
        for op in ["ReduceSum", "ReduceMean"] {
            let body = format!("%y = {op}(%x) {{keepdims = {stays}}}");
            check_body("20", "%x: f32[a, b]", &body, &[("x", random(1, &[2, 3]))]);
        }
    }
}

#[test]
fn axes_are_attributes_before_opset_18() {
    for stays in [0, 1] {
        let body = format!("%y = ReduceMean(%x) {{axes = [-1], keepdims = {stays}}}");
        check_body("13", "%x: f32[2, 3]", &body, &[("x", random(1, &[2, 3]))]);
    }
}

#[test]
fn softmax_along_an_axis() {
    for op in ["Softmax", "LogSoftmax"] {
        for attributes in ["", " {axis = 1}", " {axis = -2}"] {
            let body = format!("%y = {op}(%x){attributes}");
            check_body("13", "%x: f32[a, b, 4]", &body, &[("x", random(1, &[2, 3, 4]))]);
        }
    }
}
