//! Weights in the blocks of `MatMulNBits`, quantized again.

use zqc_ir::op::attribute::int;
use zqc_ir::tensor::DataType::{self, Float, Uint8};
use zqc_ir::{Model, Tensor};
use zqc_passes::{Canonicalize, Select};

use crate::agreement::{Pair, assert_agree};
use crate::builder::{Builder, written};
use crate::{assert_snapshot, run};

const MICROSOFT: &str = "com.microsoft";
const REQUANTIZE: Canonicalize = Canonicalize { requantize: true };

fn bytes(builder: Builder, name: &str, dims: &[usize]) -> Builder {
    let size = dims.iter().product::<usize>();
    let tensor = Tensor::new(Uint8, dims, (0..size).map(|i| (i * 73 + 29) as u8).collect::<Vec<u8>>());
    builder.initializer(tensor.unwrap().to_proto(name))
}

/// 40 features of 12 tokens and a matrix `[40, 48]` in three blocks a row, the last one short.
fn product(bits: usize, more: &[&str]) -> Builder {
    let model = Builder::new().import(MICROSOFT).input("x", Float, "12 40");
    let model = bytes(model, "w", &[48, 3, 2 * bits]).weight("scales", Float, &[48, 3]);
    let model = bytes(model, "zeros", &[48, (3 * bits).div_ceil(8)]).weight("float_zeros", Float, &[48, 3]);
    let model = model.weight("b", Float, &[48]);
    let inputs: Vec<&str> = ["x", "w", "scales"].iter().chain(more).copied().collect();
    let attributes = [("K", 40), ("N", 48), ("bits", bits as i64), ("block_size", 16)];
    let model = model.node("MatMulNBits", &inputs, "y").of(MICROSOFT).named("/m/proj/MatMul");
    attributes.into_iter().fold(model, |model, (name, value)| model.with(int(name, value))).output("y")
}

fn forms() -> Vec<(&'static str, Builder)> {
    vec![
        ("nbits_4", product(4, &[])),
        ("nbits_4_with_zero_points", product(4, &["zeros"])),
        ("nbits_4_with_float_zero_points", product(4, &["float_zeros"])),
        ("nbits_4_with_bias", product(4, &["zeros", "", "b"])),
        ("nbits_8_with_zero_points", product(8, &["zeros"])),
    ]
}

#[test]
fn every_form() {
    let nothing = Select { only: vec!["^$".parse().unwrap()], ..Default::default() };
    for (name, form) in forms() {
        let mut model = form.build();
        assert_snapshot("canonicalize", &format!("requantize_{name}"), &run(&[&REQUANTIZE], &mut model));
        run(&[&nothing], &mut model);
        assert_eq!(written(&model), form.proto, "{name}");
        let text = run(&[&Canonicalize::default()], &mut form.build());
        assert!(
            text.contains("kept m.proj: its weight is already quantized, for MatMulNBits; --requantize"),
            "{text}"
        );
    }
}

#[test]
fn codes_in_an_order_of_their_own_stay() {
    let model = product(4, &["", "order"]).constant("order", DataType::Int32, &[40]);
    let text = run(&[&REQUANTIZE], &mut model.build());
    assert!(text.contains("kept m.proj: its weight is already quantized, for MatMulNBits\n"), "{text}");
    let mut short = product(4, &[]);
    short.proto.graph.as_mut().unwrap().initializer.retain(|tensor| tensor.name() != "scales");
    let text = run(&[&REQUANTIZE], &mut short.weight("scales", Float, &[48, 2]).build());
    assert!(!text.contains("zqc.linear"), "{text}");
}

/// The model with the float matrix that was made of the codes.
fn float(form: &Builder) -> Model {
    let mut model = form.build();
    run(&[&REQUANTIZE], &mut model);
    let graph = &model.graph;
    let matrix = graph.constant(graph.find("w_48x40").unwrap()).unwrap();
    let float =
        Builder::new().input("x", Float, "12 40").initializer(matrix.to_proto("w")).weight("b", Float, &[48]);
    let float = float.node("Gemm", &["x", "w", "b"], "y").with(int("transB", 1)).output("y");
    let has_bias = graph.nodes().any(|(_, node)| node.inputs().len() == 3);
    if has_bias { float.build() } else { float.with(zqc_ir::op::attribute::float("beta", 0.0)).build() }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn onnxruntime_multiplies_by_the_same_numbers() {
    let pairs = forms().into_iter().map(|(name, form)| Pair {
        name: name.to_string(),
        model: form.build(),
        other: float(&form),
        integers: "{}",
    });
    assert_agree(pairs);
}
