//! Operators that move elements as a whole.

use crate::differences::{check_body, random};

/// A factor that differs from element to element, so that a gradient in the wrong place is seen.
const SQUARE: &str = "%y = Mul(%moved, %moved)";

fn moved(declared: &str, shape: &[usize], body: &str) {
    let body = format!("{body}\n{SQUARE}");
    check_body("18", &format!("%x: f32[{declared}]"), &body, &[("x", random(1, shape))]);
}

#[test]
fn shapes() {
    for declared in ["2, 3, 4", "a, b, 4", "?, ?, ?"] {
        let shape = &[2, 3, 4];
        moved(declared, shape, "const %s: i64[2] = dense<0, -1>\n%moved = Reshape(%x, %s)");
        moved(declared, shape, "%moved = Flatten(%x) {axis = 2}");
        moved(declared, shape, "const %a: i64[2] = dense<0, -1>\n%moved = Unsqueeze(%x, %a)");
        moved(declared, shape, "%moved = Transpose(%x) {perm = [2, 0, 1]}");
        moved(declared, shape, "%moved = Transpose(%x)");
    }
    moved("2, 1, 4", &[2, 1, 4], "const %a: i64[1] = dense<-2>\n%moved = Squeeze(%x, %a)");
    moved("?, ?", &[1, 4], "%moved = Squeeze(%x)");
}

#[test]
fn expansions() {
    for declared in ["2, 1, 4", "a, b, 4"] {
        moved(declared, &[2, 1, 4], "const %s: i64[4] = dense<3, 2, 5, 4>\n%moved = Expand(%x, %s)");
    }
}

#[test]
fn values_side_by_side() {
    for (a, b) in [("2, 3", "2, 4"), ("s, t", "s, u"), ("?, ?", "2, 4")] {
        let inputs = [("a", random(1, &[2, 3])), ("b", random(2, &[2, 4]))];
        let body = format!("%moved = Concat(%a, %b, %a) {{axis = -1}}\n{SQUARE}");
        check_body("13", &format!("%a: f32[{a}], %b: f32[{b}]"), &body, &inputs);
    }
}

#[test]
fn parts_of_which_one_is_not_read() {
    let sizes = "const %sizes: i64[3] = dense<2, 1, 3>";
    let body = format!(
        "{sizes}\n%a, %b, %c = Split(%x, %sizes) {{axis = 1}}\n%m = Mul(%a, %a)
        %moved = Concat(%m, %c) {{axis = 1}}\n{SQUARE}"
    );
    for declared in ["2, 6", "s, t"] {
        check_body("13", &format!("%x: f32[{declared}]"), &body, &[("x", random(1, &[2, 6]))]);
    }
}
