//! What comes of fused operators computes the same; `filetests/expand_fused` shows it.

use zqc_ir::op::attribute::{float, floats, int, string};
use zqc_ir::tensor::DataType::Float;
use zqc_passes::ExpandFused;

use crate::agreement::{Pair, assert_agree};
use crate::builder::Builder;
use crate::run;

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
