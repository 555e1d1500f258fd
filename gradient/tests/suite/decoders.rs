//! End to end, on the trained model in `examples/tiny`.

use std::path::Path;

use zqc_gradient::{differentiate, segments};
use zqc_ir::{Model, Op, ValueId};

use crate::directional::compare;

const TOKENS: [i64; 12] = [1, 5, 60, 22, 300, 7, 7, 45, 120, 9, 33, 2];

fn tiny() -> Model {
    zqc_ir::onnx::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tiny/model.onnx")).unwrap()
}

#[test]
fn the_residual_stream_of_a_decoder_has_the_gradient_of_differences() {
    let model = tiny();
    let boundaries = segments(&model, model.graph.outputs()[0]).unwrap();
    let names: Vec<&str> = boundaries.iter().map(|&value| model.graph.value(value).name.as_str()).collect();
    println!("{names:?}");
    for &value in &boundaries[..boundaries.len() - 1] {
        let found = compare(&model, &TOKENS, value);
        assert_eq!(found.stopped, []);
        let gradient = found.gradient.unwrap();
        println!("{}: {gradient} {}", model.graph.value(value).name, found.difference);
        assert!((gradient - found.difference).abs() <= 2e-3 * gradient.abs().max(1.0));
    }
}

#[test]
fn every_linear_layer_of_a_decoder_gets_a_gradient() {
    let model = tiny();
    let graph = &model.graph;
    let is_product = |op: &Op| ["MatMul", "Gemm"].iter().any(|op_type| op.as_standard(op_type).is_some());
    let products = graph.nodes().filter(|(_, node)| is_product(&node.op));
    let outputs: Vec<ValueId> = products.filter_map(|(_, node)| node.sole_output()).collect();
    let gradient = differentiate(&model, graph.outputs()[0], &outputs).unwrap();
    assert_eq!(gradient.stopped, []);
    let missing: Vec<&str> = std::iter::zip(&outputs, &gradient.gradients)
        .filter(|(_, gradient)| gradient.is_none())
        .map(|(&value, _)| graph.value(value).name.as_str())
        .collect();
    println!("{} of {}", outputs.len() - missing.len(), outputs.len());
    assert_eq!(missing, [""; 0]);
}
