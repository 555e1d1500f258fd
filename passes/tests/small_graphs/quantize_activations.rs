use zqc_formats::ActivationFormat;
use zqc_ir::tensor::DataType::Float;
use zqc_passes::{Canonicalize, QuantizeActivations};

use crate::builder::Builder;
use crate::{assert_snapshot, run};

const E4M3: QuantizeActivations = QuantizeActivations { format: ActivationFormat::E4M3 };

/// Three layers that read `x`, one that reads what they make, and a reader of `x` that is no layer.
fn shared_input() -> Builder {
    Builder::new()
        .input("x", Float, "rows 4")
        .constant("q", Float, &[4, 4])
        .constant("k", Float, &[4, 4])
        .constant("v", Float, &[4, 4])
        .constant("o", Float, &[4, 4])
        .node("MatMul", &["x", "q"], "xq")
        .node("MatMul", &["x", "k"], "xk")
        .node("MatMul", &["x", "v"], "xv")
        .node("Sum", &["xq", "xk", "xv"], "mixed")
        .node("MatMul", &["mixed", "o"], "attended")
        .node("Add", &["x", "attended"], "y")
        .output("y")
}

#[test]
fn one_node_for_each_distinct_input() {
    let text = run(&[&Canonicalize::default(), &E4M3], &mut shared_input().build());
    assert_snapshot("quantize_activations", "shared_input", &text);
}

#[test]
fn the_name_of_another_value_is_not_taken() {
    let mut model = shared_input().node("Neg", &["x"], "x_quantized").output("x_quantized").build();
    let text = run(&[&Canonicalize::default(), &E4M3], &mut model);
    assert_snapshot("quantize_activations", "taken_name", &text);
}

#[test]
fn nothing_is_quantized_without_layers() {
    let mut model = shared_input().build();
    let before = run(&[], &mut model);
    assert_eq!(run(&[&E4M3], &mut model), before);
}

#[test]
fn a_second_run_changes_nothing() {
    let mut model = shared_input().build();
    let once = run(&[&Canonicalize::default(), &E4M3], &mut model);
    assert_eq!(run(&[&E4M3], &mut model), once);
}
