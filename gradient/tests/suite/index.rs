//! Operators that pick elements.

use zqc_runtime::Array;

use crate::differences::{check_body, random};

#[test]
fn slices() {
    let cuts = [
        // starts, ends, axes, steps
        ("1", "3", "1", "1"),
        ("-2", "9223372036854775807", "-1", "1"),
        ("0", "-1", "0", "1"),
        ("1, -3", "2, -1", "0, 2", "1, 1"),
        ("0", "9223372036854775807", "2", "2"),
        ("1", "9223372036854775807", "1", "2"),
        ("-1", "-9223372036854775807", "2", "-1"),
        ("-9", "9", "1", "1"),
        ("0, -1", "2, -4", "0, 2", "1, -2"),
    ];
    for (starts, ends, axes, steps) in cuts {
        let count = axes.split(',').count();
        let constants = [("starts", starts), ("ends", ends), ("axes", axes), ("steps", steps)];
        let constants =
            constants.map(|(name, values)| format!("const %{name}: i64[{count}] = dense<{values}>"));
        let body = format!(
            "{}\n%cut = Slice(%x, %starts, %ends, %axes, %steps)\n%y = Mul(%cut, %cut)",
            constants.join("\n")
        );
        for declared in ["2, 3, 4", "a, b, c"] {
            check_body("13", &format!("%x: f32[{declared}]"), &body, &[("x", random(1, &[2, 3, 4]))]);
        }
    }
}

#[test]
fn slices_whose_bounds_are_computed() {
    let body =
        "const %axes: i64[1] = dense<1>\n%cut = Slice(%x, %starts, %ends, %axes)\n%y = Mul(%cut, %cut)";
    for (start, end) in [(1, 3), (-2, 4), (0, 2)] {
        let bound = |at: i64| Array::new(vec![1], vec![at]).unwrap();
        let inputs = [("x", random(1, &[2, 4])), ("starts", bound(start)), ("ends", bound(end))];
        check_body("18", "%x: f32[a, b], %starts: i64[1], %ends: i64[1]", body, &inputs);
    }
}

#[test]
fn slices_whose_axes_are_computed() {
    let body = "const %flat: i64[1] = dense<-1>\n%axes = Reshape(%axis, %flat)
        %cut = Slice(%x, %starts, %ends, %axes)\n%y = Mul(%cut, %cut)";
    for axis in [0, -1] {
        let number = |at: i64| Array::new(vec![1], vec![at]).unwrap();
        let axis = Array::new(vec![], vec![axis]).unwrap();
        let inputs = [("x", random(1, &[3, 4])), ("starts", number(1)), ("ends", number(3)), ("axis", axis)];
        check_body("18", "%x: f32, %starts: i64[1], %ends: i64[1], %axis: i64[]", body, &inputs);
    }
}

#[test]
fn elements_that_are_gathered_once_twice_or_not() {
    for (indices, dims) in [("1", "[]"), ("-1", "[1]"), ("0, 2, 0", "[3]"), ("1, -1, 2, 1", "[2, 2]")] {
        for axis in [0, 1, -1] {
            let body = format!(
                "const %i: i64{dims} = dense<{indices}>\n%picked = Gather(%x, %i) {{axis = {axis}}}
                %y = Mul(%picked, %picked)"
            );
            for declared in ["3, 4, 3", "a, b, c"] {
                check_body("18", &format!("%x: f32[{declared}]"), &body, &[("x", random(1, &[3, 4, 3]))]);
            }
        }
    }
}

#[test]
fn rotations() {
    let half = [("c", random(2, &[5, 2])), ("s", random(3, &[5, 2]))];
    let positions = Array::new(vec![2, 3], vec![0i64, 1, 2, 2, 3, 4]).unwrap();
    let declared = "%x: f32[2, 2, 3, 4], %p: i64[2, 3]";
    let [cosines, sines] = half.map(|(name, array)| {
        let values: Vec<String> = array.as_f32().unwrap().iter().map(|x| format!("{x:?}")).collect();
        format!("const %{name}: f32[5, 2] = dense<{}>", values.join(", "))
    });
    for (op, interleaved) in [
        ("RotaryEmbedding(%x, %c, %s, %p)", 0),
        ("RotaryEmbedding(%x, %c, %s, %p)", 1),
        ("com.microsoft::RotaryEmbedding(%x, %p, %c, %s)", 0),
        ("com.microsoft::RotaryEmbedding(%x, %p, %c, %s)", 1),
    ] {
        let body = format!("{cosines}\n{sines}\n%r = {op} {{interleaved = {interleaved}}}\n%y = Mul(%r, %r)");
        let inputs = [("x", random(1, &[2, 2, 3, 4])), ("p", positions.clone())];
        check_body("23, com.microsoft=1", declared, &body, &inputs);
    }
}
