use zqc_ir::op::attribute::{float, int, ints};
use zqc_ir::tensor::DataType::{Float, Int32};
use zqc_passes::{Canonicalize, ExpandAttention, Pass, Select};

use crate::agreement::{Pair, assert_agree};
use crate::builder::{Builder, written};
use crate::{assert_snapshot, run};

const MICROSOFT: &str = "com.microsoft";

/// 32 features of 6 tokens in a batch of two, and the weights of four heads of 8 features.
fn packed(n: usize) -> Builder {
    let model = Builder::new().import(MICROSOFT).input("x", Float, "2 6 32");
    model.weight("m.attn.qkv", Float, &[32, n]).weight("m.attn.bias", Float, &[n])
}

/// `Attention` of four heads that reads these after the weights.
fn attention(model: Builder, more: &[&str]) -> Builder {
    let inputs: Vec<&str> = ["x", "m.attn.qkv", "m.attn.bias"].iter().chain(more).copied().collect();
    model
        .node("Attention", &inputs, "y")
        .of(MICROSOFT)
        .named("/m/attn/Attention")
        .with(int("num_heads", 4))
        .output("y")
}

/// Every form that is taken apart, with integers to run it on.
fn forms() -> Vec<(&'static str, Builder, &'static str)> {
    const PADDED: &str = r#"{"mask": [[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1]]}"#;
    vec![
        ("plain", attention(packed(96), &[]), "{}"),
        ("before_opset_13", attention(packed(96), &[]).opset(12), "{}"),
        (
            "without_bias",
            {
                let model = packed(96).node("Attention", &["x", "m.attn.qkv", ""], "y").of(MICROSOFT);
                model.with(int("num_heads", 4)).output("y")
            },
            "{}",
        ),
        (
            "attributes",
            {
                let model = attention(packed(96).input("mask", Int32, "2 6"), &["mask"]);
                model
                    .with(float("scale", 0.5))
                    .with(float("mask_filter_value", -3.0))
                    .with(int("unidirectional", 1))
            },
            PADDED,
        ),
        ("raw_mask", attention(packed(96).input("mask", Int32, "2 6"), &["mask"]), PADDED),
        (
            "mask_of_queries",
            attention(packed(96).input("mask", Int32, "2 6 6"), &["mask"]),
            r#"{"mask": [
            [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 0, 1]],
            [[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 0], [1, 1, 0, 1, 0, 0], [0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 0, 1]]]}"#,
        ),
        (
            "mask_of_one_column",
            attention(packed(96).input("mask", Int32, "2 1"), &["mask"]),
            r#"{"mask": [[1], [0]]}"#,
        ),
        ("ends", attention(packed(96).input("mask", Int32, "2"), &["mask"]), r#"{"mask": [4, 6]}"#),
        (
            "ends_and_beginnings",
            attention(packed(96).input("mask", Int32, "4"), &["mask"]),
            r#"{"mask": [4, 6, 1, 0]}"#,
        ),
        (
            "ends_that_are_summed",
            {
                let model = packed(96).input("mask", Int32, "2 6").integers("one", &[1]);
                let model = model.node("ReduceSum", &["mask", "one"], "ends").with(int("keepdims", 0));
                attention(model, &["ends"])
            },
            r#"{"mask": [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]}"#,
        ),
        (
            "two_that_share_ends",
            {
                let model =
                    attention(packed(96).input("mask", Int32, "2"), &["mask"]).weight("v", Float, &[32, 96]);
                let model = model.node("Attention", &["y", "v", "m.attn.bias", "mask"], "z").of(MICROSOFT);
                model.with(int("num_heads", 4)).output("z")
            },
            r#"{"mask": [4, 6]}"#,
        ),
        (
            "sizes",
            {
                let sizes = attention(packed(80), &[]);
                sizes.with(ints("qkv_hidden_sizes", &[32, 32, 16]))
            },
            "{}",
        ),
        (
            "cache",
            {
                let model = packed(96).input("mask", Int32, "2 9").input("past", Float, "2 2 4 3 8");
                attention(model, &["mask", "past"])
                    .and_output("present")
                    .with(int("unidirectional", 1))
                    .output("present")
            },
            r#"{"mask": [[1, 0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 0, 0]]}"#,
        ),
        (
            "cache_before_opset_13",
            {
                let model = packed(96).opset(12).input("past", Float, "2 2 4 3 8");
                attention(model, &["", "past"]).and_output("present").output("present")
            },
            "{}",
        ),
        ("no_cache_yet", attention(packed(96), &[]).and_output("present").output("present"), "{}"),
        ("bias_of_positions", attention(packed(96).input("bias", Float, "1 4 6 6"), &["", "", "bias"]), "{}"),
    ]
}

/// What `MultiHeadAttention` cannot do.
fn whole() -> Vec<(&'static str, Builder)> {
    vec![
        ("rotated", attention(packed(96), &[]).with(int("do_rotary", 1))),
        ("shared_buffer", {
            let model = packed(96).input("past", Float, "2 2 4 9 8").input("length", Int32, "1");
            let model = attention(model, &["", "past", "", "length"]).and_output("present").output("present");
            model.with(int("past_present_share_buffer", 1))
        }),
        ("sizes_that_do_not_fit", attention(packed(80), &[])),
        ("mask_of_four_dimensions", attention(packed(96).input("mask", Int32, "2 1 9 9"), &["mask"])),
        ("mask_of_unknown_rank", {
            let model = packed(96).input("m", Int32, "2 6").node("Custom", &["m"], "mask").of("user");
            attention(model, &["mask"])
        }),
        ("ends_beside_a_cache", {
            let model = packed(96).input("mask", Int32, "2").input("past", Float, "2 2 4 3 8");
            attention(model, &["mask", "past"]).and_output("present").output("present")
        }),
        ("computed_weight", {
            let model =
                Builder::new().import(MICROSOFT).input("x", Float, "2 6 32").input("w", Float, "32 96");
            model.node("Attention", &["x", "w"], "y").of(MICROSOFT).with(int("num_heads", 4)).output("y")
        }),
    ]
}

#[test]
fn every_form() {
    for (name, form, _) in forms() {
        assert_snapshot("expand_attention", name, &run(&[&ExpandAttention::default()], &mut form.build()));
    }
    let mut reasons = String::new();
    for (name, form) in whole() {
        let text = run(&[&ExpandAttention::default(), &Canonicalize::default()], &mut form.build());
        assert!(text.contains("= com.microsoft::Attention("), "{name}: {text}");
        let kept = text.lines().filter(|line| line.starts_with("kept")).collect::<Vec<_>>();
        reasons.push_str(&format!("{name}: {}\n", kept.join("; ")));
    }
    assert_snapshot("expand_attention", "reasons", &reasons);
}

#[test]
fn the_weight_is_a_layer() {
    let passes: [&dyn Pass; 3] = [&ExpandAttention::default(), &Canonicalize::default(), &Select::default()];
    assert_snapshot("expand_attention", "layers", &run(&passes, &mut forms()[0].1.build()));
}

#[test]
fn an_attention_that_stays_in_float_stays_whole() {
    let select = Select { only: vec!["^nothing$".parse().unwrap()], ..Default::default() };
    for (name, form, _) in forms() {
        let mut model = form.build();
        let expand = ExpandAttention { select: select.clone() };
        let text = run(&[&expand, &Canonicalize::default(), &select], &mut model);
        assert_eq!(written(&model), form.proto, "{name}");
        assert!(
            text.contains("kept m.attn: not named by --only") || name == "without_bias",
            "{name}: {text}"
        );
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn onnxruntime_yields_the_same() {
    let pairs = forms().into_iter().map(|(name, form, integers)| {
        let (whole, mut apart) = (form.build(), form.build());
        run(&[&ExpandAttention::default()], &mut apart);
        Pair { name: name.to_string(), model: whole, other: apart, integers }
    });
    assert_agree(pairs);
}
