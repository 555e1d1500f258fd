//! Products that are taken in other forms than the usual one, and matrices that are named because they are not taken.

use std::fmt::Write;

use zqc_ir::op::attribute::{float, int};
use zqc_ir::tensor::DataType::{Float, Float8e4m3fn, Float16, Int64, Uint8};
use zqc_passes::{Canonicalize, Select};

use crate::builder::{Builder, written};
use crate::{assert_snapshot, run};

fn x(dims: &str) -> Builder {
    Builder::new().input("x", Float, dims)
}

fn product(builder: Builder, operator: &str, inputs: &[&str]) -> Builder {
    builder.node(operator, inputs, "y").output("y")
}

/// Forms that are linear layers.
fn layers() -> Vec<(&'static str, Builder)> {
    let fused =
        |dims: &[usize]| product(x("batch rows 32").weight("w", Float, dims), "FusedMatMul", &["x", "w"]);
    let fused = |dims| fused(dims).of("com.microsoft").with(float("alpha", 0.5));
    vec![
        ("fused_and_scaled", fused(&[32, 48])),
        ("fused_and_transposed", fused(&[48, 32]).with(int("transB", 1))),
        (
            "on_the_left_of_a_stack",
            product(x("batch 32 cols").weight("w", Float, &[48, 32]), "MatMul", &["w", "x"]),
        ),
        ("on_the_left_with_what_is_no_bias", {
            let model = x("48 48").weight("w", Float, &[48, 48]).weight("b", Float, &[48]);
            let model = model.node("MatMul", &["w", "x"], "product");
            product(model, "Add", &["product", "b"])
        }),
        ("on_the_left_of_a_gemm", {
            let model = product(x("cols 32").weight("w", Float, &[32, 48]), "Gemm", &["w", "x"]);
            model.with(int("transA", 1)).with(int("transB", 1)).with(float("alpha", 2.0))
        }),
    ]
}

/// Forms that are none.
fn others() -> Vec<(&'static str, Builder)> {
    let matrix = || x("rows 32").weight("w", Float, &[32, 48]);
    vec![
        ("an unknown dequantizer", {
            let codes = x("rows 32").constant("w", Float8e4m3fn, &[32, 48]).constant("s", Float, &[1]);
            let codes = codes.node("TRT_FP8DequantizeLinear", &["w", "s"], "d").of("trt");
            product(
                codes.node("Transpose", &["d"], "t").node("Transpose", &["t"], "v"),
                "MatMul",
                &["x", "v"],
            )
        }),
        ("an unknown operator", product(matrix(), "Product", &["x", "w"]).of("custom")),
        ("an unknown operator on codes", {
            let codes = x("rows 32").constant("w", Uint8, &[48, 1, 32]).weight("s", Float, &[48]);
            product(codes, "Product", &["x", "w", "s"]).of("custom")
        }),
        ("a small matrix of an unknown operator", {
            product(x("rows 8").weight("w", Float, &[8, 8]), "Product", &["x", "w"]).of("custom")
        }),
        ("an unknown operator on constants alone", product(matrix(), "Norm", &["w"]).of("custom")),
        ("tables of positions", {
            let model = x("rows 32").input("at", Int64, "rows").weight("cos", Float, &[64, 32]);
            product(model, "RotaryEmbedding", &["x", "at", "cos", "cos"]).of("com.microsoft")
        }),
        ("a product of constants", {
            let model = matrix().weight("v", Float, &[48, 48]).node("Mul", &["w", "w"], "squares");
            product(model, "MatMul", &["x", "squares"])
        }),
        ("a computed weight on the left", {
            let model =
                x("48 cols").weight("w", Float16, &[64, 48]).node("Cast", &["w"], "v").with(int("to", 1));
            product(model.node("Mul", &["v", "v"], "squares"), "MatMul", &["squares", "x"])
        }),
        (
            "a left operand of a bias",
            product(x("32 32").weight("w", Float, &[48, 32]), "Gemm", &["w", "x", "x"]),
        ),
        ("a left operand of unknown rank", {
            let model = x("rows 32").weight("w", Float, &[48, 32]).node("Custom", &["x"], "h").of("user");
            product(model, "MatMul", &["w", "h"])
        }),
        ("columns of a matrix", {
            let model = x("rows 32").weight("w", Float, &[32, 96]).node("Split", &["w"], "v").and_output("u");
            let model = model.with(int("axis", 1)).with(int("num_outputs", 2));
            product(model, "MatMul", &["x", "v"])
        }),
        ("a window", product(x("b 32 t").weight("w", Float, &[48, 32, 3]), "Conv", &["x", "w"])),
        (
            "groups",
            product(x("b 64 t").weight("w", Float, &[64, 32, 1]), "Conv", &["x", "w"]).with(int("group", 2)),
        ),
        ("a recurrent layer", {
            let model = x("t b 32").weight("w", Float, &[1, 128, 32]).weight("r", Float, &[1, 128, 32]);
            product(model, "LSTM", &["x", "w", "r"]).with(int("hidden_size", 32))
        }),
        ("an embedding", {
            let model = x("rows 32").input("ids", Int64, "rows").weight("table", Float, &[64, 32]);
            product(model.node("Gather", &["table", "ids"], "h"), "MatMul", &["h", "x"])
        }),
        ("a mask", {
            let model = x("64 64").weight("mask", Float, &[64, 64]);
            product(model, "Add", &["x", "mask"])
        }),
    ]
}

#[test]
fn other_forms_of_layers() {
    let nothing = Select { only: vec!["^$".parse().unwrap()], ..Default::default() };
    for (name, form) in layers() {
        let mut model = form.build();
        assert_snapshot("canonicalize", name, &run(&[&Canonicalize::default()], &mut model));
        run(&[&nothing], &mut model);
        assert_eq!(written(&model), form.proto, "{name}");
    }
}

#[test]
fn what_is_not_taken_is_named() {
    let mut reasons = String::new();
    for (name, form) in others() {
        let text = run(&[&Canonicalize::default()], &mut form.build());
        let kept: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("kept ")).collect();
        let taken = if text.contains("zqc.linear") { "taken" } else { "" };
        let _ = writeln!(reasons, "{name}: {taken}{}", kept.join("; "));
    }
    assert_snapshot("canonicalize", "reasons", &reasons);
}
