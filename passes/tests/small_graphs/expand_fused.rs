use zqc_ir::op::attribute::{float, floats, int, string};
use zqc_ir::tensor::DataType::Float;
use zqc_passes::{Canonicalize, ExpandFused, Pass, Select};

use crate::agreement::{Pair, assert_agree};
use crate::builder::{Builder, written};
use crate::{assert_snapshot, run};

const MICROSOFT: &str = "com.microsoft";

fn fused(x: &str, weight: &[usize], operator: &str, inputs: &[&str]) -> Builder {
    let model = Builder::new().import(MICROSOFT).input("x", Float, x).weight("m.w", Float, weight);
    let model = model.weight("b", Float, &[48]);
    model.node(operator, inputs, "y").of(MICROSOFT).named("/m/fused").output("y")
}

fn gemm(activation: &str) -> Builder {
    let model = fused("10 32", &[48, 32], "FusedGemm", &["x", "m.w", "b"]);
    model.with(int("transB", 1)).with(float("alpha", 0.5)).with(string("activation", activation))
}

/// Every form that ONNX Runtime's CPU provider runs.
fn forms() -> Vec<(&'static str, Builder)> {
    vec![
        ("gemm", gemm("Relu")),
        ("gemm_with_a_slope", gemm("LeakyRelu").with(float("activation_alpha", 0.25))),
        ("convolution", {
            let model = fused("2 32 5", &[48, 32, 1], "FusedConv", &["x", "m.w", "b"]);
            model.with(string("activation", "HardSigmoid")).with(floats("activation_params", &[0.1, 0.4]))
        }),
    ]
}

fn gelu() -> Builder {
    fused("2 5 32", &[32, 48], "GemmFastGelu", &["x", "m.w", "b"])
}

#[test]
fn every_form() {
    for (name, form) in forms().into_iter().chain([("gelu", gelu())]) {
        let passes: [&dyn Pass; 2] = [&ExpandFused::default(), &Canonicalize::default()];
        assert_snapshot("expand_fused", name, &run(&passes, &mut form.build()));
    }
    let others = [
        ("another activation", gemm("Swish")),
        (
            "a window",
            fused("2 32 5", &[48, 32, 3], "FusedConv", &["x", "m.w", "b"]).with(string("activation", "Relu")),
        ),
        ("a sum", {
            let model = fused("2 32 5", &[48, 32, 1], "FusedConv", &["x", "m.w", "b", "z"]);
            model.with(string("activation", "Relu")).input("z", Float, "2 48 5")
        }),
    ];
    let mut reasons = String::new();
    for (name, form) in others {
        let text = run(&[&ExpandFused::default(), &Canonicalize::default()], &mut form.build());
        let kept = text.lines().filter(|line| line.starts_with("kept")).collect::<Vec<_>>();
        reasons.push_str(&format!("{name}: {}\n", kept.join("; ")));
    }
    assert_snapshot("expand_fused", "reasons", &reasons);
}

#[test]
fn what_stays_in_float_stays_whole() {
    let select = Select { only: vec!["^nothing$".parse().unwrap()], ..Default::default() };
    for (name, form) in forms() {
        let mut model = form.build();
        let text =
            run(&[&ExpandFused { select: select.clone() }, &Canonicalize::default(), &select], &mut model);
        assert_eq!(written(&model), form.proto, "{name}");
        assert!(text.contains("kept m: not named by --only"), "{name}: {text}");
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn onnxruntime_yields_the_same() {
    let pairs = forms().into_iter().map(|(name, form)| {
        let mut other = form.build();
        run(&[&ExpandFused::default()], &mut other);
        Pair { name: name.to_string(), model: form.build(), other, integers: "{}" }
    });
    assert_agree(pairs);
}
