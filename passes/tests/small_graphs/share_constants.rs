use zqc_ir::Tensor;
use zqc_ir::tensor::DataType::{Float, Int64};
use zqc_passes::ShareConstants;

use crate::builder::Builder;
use crate::kinds::noise;
use crate::{assert_snapshot, run};

/// A matrix `[rows, columns]` of these values.
fn with(mut model: Builder, name: &str, dims: [usize; 2], values: Vec<f32>) -> Builder {
    let tensor = Tensor::from_f32(&dims, values).unwrap().to_proto(name);
    model.proto.graph.get_or_insert_default().initializer.push(tensor);
    model
}

/// An embedding table `[48, 32]`, and a head that reads `head`.
fn model(head: [usize; 2], values: Vec<f32>) -> Builder {
    let start = with(Builder::new().input("ids", Int64, "batch seq"), "table", [48, 32], noise(48 * 32, 1));
    with(start, "head", head, values)
        .node("Gather", &["table", "ids"], "h")
        .node("Relu", &["h"], "r")
        .node("MatMul", &["r", "head"], "logits")
        .output("logits")
}

#[test]
fn copies_by_content() {
    let table = noise(48 * 32, 1);
    let transposed = zqc_formats::transpose(&table, 48, 32);
    let mut other = transposed.clone();
    other[100] += 1.0;
    let twice = with(Builder::new().input("x", Float, "rows 48"), "a", [48, 32], table.clone());
    let twice = with(twice, "b", [48, 32], table)
        .node("MatMul", &["x", "a"], "y")
        .node("MatMul", &["x", "b"], "z")
        .output("y")
        .output("z");
    let cases = [
        ("folded_transpose", model([32, 48], transposed)),
        ("one_element_differs", model([32, 48], other)),
        ("same_orientation", twice),
    ];
    for (name, model) in cases {
        assert_snapshot("share_constants", name, &run(&[&ShareConstants], &mut model.build()));
    }
}
