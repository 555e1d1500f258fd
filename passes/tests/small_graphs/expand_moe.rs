use zqc_ir::op::attribute::{float, int, string};
use zqc_ir::tensor::DataType::Float;
use zqc_passes::{Canonicalize, ExpandMoe, Pass, Select, SplitExperts};

use crate::agreement::{Pair, assert_agree};
use crate::builder::{Builder, written};
use crate::{assert_snapshot, run};

const MICROSOFT: &str = "com.microsoft";

/// Three experts with 32 features of 10 tokens, 48 inside, of which the first layer yields `up`.
fn experts(dims: &str, up: usize) -> Builder {
    let model = Builder::new().import(MICROSOFT).input("x", Float, dims).input("router", Float, "10 3");
    let model = model.weight("m.up", Float, &[3, up, 32]).weight("m.up_bias", Float, &[3, up]);
    model.weight("m.down", Float, &[3, 32, 48]).weight("m.down_bias", Float, &[3, 32])
}

/// `MoE` with these biases and this activation.
fn moe(model: Builder, biases: [&str; 2], activation: &str) -> Builder {
    let inputs = ["x", "router", "m.up", biases[0], "m.down", biases[1]];
    let model = model.node("MoE", &inputs, "y").of(MICROSOFT).named("/m/moe/MoE").output("y");
    model.with(string("activation_type", activation)).with(int("k", 2))
}

fn biased(dims: &str, up: usize, activation: &str) -> Builder {
    moe(experts(dims, up), ["m.up_bias", "m.down_bias"], activation)
}

fn swiglu(fusion: i64) -> Builder {
    biased("2 5 32", 96, "swiglu")
        .with(int("swiglu_fusion", fusion))
        .with(int("normalize_routing_weights", 1))
}

/// Every form that ONNX Runtime's CPU provider runs.
fn forms() -> Vec<(&'static str, Builder)> {
    vec![
        ("relu", moe(experts("10 32", 48), ["", ""], "relu")),
        ("gelu", biased("10 32", 48, "gelu")),
        ("silu", biased("2 5 32", 48, "silu").with(int("normalize_routing_weights", 1))),
        ("identity", biased("10 32", 48, "identity")),
        ("swiglu", swiglu(1)),
        ("swiglu_as_in_gpt_oss", {
            let alpha = swiglu(1).with(float("activation_alpha", 1.702)).with(float("activation_beta", 1.0));
            alpha.with(float("swiglu_limit", 0.5))
        }),
    ]
}

/// Forms that other providers run.
fn others() -> Vec<(&'static str, Builder)> {
    vec![
        ("swiglu_of_two_halves", swiglu(2)),
        ("swiglu_of_two_layers", {
            let model = experts("10 32", 48).weight("m.gate", Float, &[3, 48, 32]);
            let inputs = ["x", "router", "m.up", "", "m.down", "", "m.gate"];
            model
                .node("MoE", &inputs, "y")
                .of(MICROSOFT)
                .with(string("activation_type", "swiglu"))
                .output("y")
        }),
    ]
}

fn whole() -> Vec<(&'static str, Builder)> {
    vec![
        ("sparse_mixer", biased("10 32", 48, "relu").with(int("use_sparse_mixer", 1))),
        ("geglu", biased("10 32", 96, "geglu")),
        ("clipped_after", swiglu(1).with(int("swiglu_limit_after_activation", 1))),
        ("a_third_layer", {
            let model = experts("10 32", 48).weight("m.gate", Float, &[3, 48, 32]);
            let inputs = ["x", "router", "m.up", "", "m.down", "", "m.gate"];
            model.node("MoE", &inputs, "y").of(MICROSOFT).with(string("activation_type", "silu")).output("y")
        }),
    ]
}

#[test]
fn every_form() {
    for (name, form) in forms().into_iter().chain(others()) {
        assert_snapshot("expand_moe", name, &run(&[&ExpandMoe::default()], &mut form.build()));
    }
    let mut reasons = String::new();
    for (name, form) in whole() {
        let text = run(&[&ExpandMoe::default(), &Canonicalize::default()], &mut form.build());
        let kept = text.lines().filter(|line| line.starts_with("kept")).collect::<Vec<_>>();
        reasons.push_str(&format!("{name}: {}\n", kept.join("; ")));
    }
    assert_snapshot("expand_moe", "reasons", &reasons);
}

#[test]
fn every_expert_is_a_layer() {
    let passes: [&dyn Pass; 4] =
        [&ExpandMoe::default(), &SplitExperts::default(), &Canonicalize::default(), &Select::default()];
    let text = run(&passes, &mut swiglu(1).build());
    for layer in ["m.moe.fc1.0", "m.moe.fc1.2", "m.moe.fc2.0", "m.moe.fc2.2"] {
        assert!(text.contains(&format!("layer = \"{layer}\"")), "{text}");
    }
    assert_eq!(text.matches("zqc.linear").count(), 6, "{text}");
}

#[test]
fn a_mixture_that_stays_in_float_stays_whole() {
    let select = Select { only: vec!["^nothing$".parse().unwrap()], ..Default::default() };
    for (name, form) in forms() {
        let mut model = form.build();
        let expand = ExpandMoe { select: select.clone() };
        let text = run(&[&expand, &Canonicalize::default(), &select], &mut model);
        assert_eq!(written(&model), form.proto, "{name}");
        assert!(text.contains("kept m.moe.fc2: not named by --only"), "{name}: {text}");
    }
}

/// Taken apart by half, it would copy the matrices that stay for every token.
#[test]
fn a_mixture_of_which_a_stack_stays_in_float_stays_whole() {
    let select = Select { keep: vec![r"fc2\.".parse().unwrap()], ..Default::default() };
    let mut model = swiglu(1).build();
    let text = run(&[&ExpandMoe { select: select.clone() }, &Canonicalize::default(), &select], &mut model);
    assert_eq!(written(&model), swiglu(1).proto);
    assert!(
        text.contains("kept m.moe.fc1: its MoE stays one operator, as m.moe.fc2 stays in float"),
        "{text}"
    );
    let one = Select { keep: vec![r"fc2\.1$".parse().unwrap()], ..Default::default() };
    let passes: [&dyn Pass; 4] = [
        &ExpandMoe { select: one.clone() },
        &SplitExperts { select: one.clone() },
        &Canonicalize::default(),
        &one,
    ];
    let text = run(&passes, &mut swiglu(1).build());
    assert_eq!(text.matches("zqc.linear").count(), 5, "{text}");
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn onnxruntime_yields_the_same() {
    let expand: [&dyn Pass; 2] = [&ExpandMoe::default(), &SplitExperts::default()];
    let pairs = forms().into_iter().flat_map(|(name, form)| {
        [1, 2].map(|passes| {
            let mut other = form.build();
            run(&expand[..passes], &mut other);
            Pair { name: format!("{name}, {passes} passes"), model: form.build(), other, integers: "{}" }
        })
    });
    assert_agree(pairs);
}
