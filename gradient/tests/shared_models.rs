//! What stops the gradient in each float variant of stories260k, as different exporters write it, and whether the residual stream has
//! the gradient of differences. The models are in the folder that ZQC_SHARED names, under `models/stories260k`, and no part of
//! the suite: `docs/testing.md` has the command.

#[path = "suite/differences.rs"]
#[allow(dead_code, reason = "the suite needs more of it")]
mod differences;
#[path = "suite/directional.rs"]
mod directional;

use std::collections::BTreeMap;
use std::path::Path;

use zqc_gradient::segments;

use directional::compare;

/// Every variant, and how many kinds of operators stop its gradient.
const VARIANTS: [(&str, usize); 14] = [
    ("dynamo-fp16", 0),
    ("dynamo-fp32", 0),
    ("dynamo-fp32-extdata", 0),
    ("dynamo-nooptimize-fp32", 0),
    ("dynamo-opset23-sdpa-fp32", 0),
    ("dynamo-opset24-fp32", 0),
    ("dynamo-past-fp32", 0),
    ("dynamo-sdpa-fp32", 0),
    ("legacy-fp32", 0),
    ("legacy-nofold-fp32", 0),
    ("legacy-past-fp32", 0),
    ("local-functions-fp32", 0),
    ("merged-if-fp32", 0),
    ("ort-optimized", 0),
];

/// "Once upon a time, there was a little" in the model's tokens.
const TOKENS: [i64; 9] = [1, 403, 407, 261, 378, 432, 383, 285, 261];

#[test]
fn gradients_of_every_variant() {
    let shared = std::env::var_os("ZQC_SHARED").expect("ZQC_SHARED names the folder of the models");
    let mut failed = Vec::new();
    for (variant, expected) in VARIANTS {
        let path = Path::new(&shared).join("models/stories260k").join(variant).join("model.onnx");
        let model = zqc_ir::onnx::read(&path).unwrap();
        let output = model.graph.outputs()[0];
        let boundaries = segments(&model, output).unwrap();
        let names: Vec<&str> =
            boundaries.iter().map(|&value| model.graph.value(value).name.as_str()).collect();
        println!("{variant}, opset {}: {} segments: {names:?}", model.opset(), names.len());
        let Some(&middle) = boundaries.get(boundaries.len() / 2) else { continue };
        let found = compare(&model, &TOKENS, middle);
        let mut kinds: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for stopped in &found.stopped {
            *kinds.entry((&stopped.op_type, stopped.reason)).or_default() += 1;
        }
        println!("  at {}: {:?} {}", model.graph.value(middle).name, found.gradient, found.difference);
        for stopped in found.stopped.iter().take(2) {
            println!("  {}", stopped.node);
        }
        kinds.iter().for_each(|(kind, count)| println!("  {count} x {kind:?}"));
        let near = |gradient: f64| (gradient - found.difference).abs() <= 2e-2 * gradient.abs().max(1.0);
        if kinds.len() != expected || expected == 0 && !found.gradient.is_some_and(near) {
            failed.push(variant);
        }
    }
    assert_eq!(failed, [""; 0]);
}
