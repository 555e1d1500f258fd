//! Real exported models, quantized through the command line and executed by stock ONNX Runtime. The folder that holds
//! them is not part of the project: ZQC_SHARED names it, and without it these tests say so and pass.

mod support;

use std::ffi::OsStr;
use std::path::PathBuf;

use support::{Text, python, script, zqc_ok};

fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("ZQC_SHARED").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: ZQC_SHARED names no folder with shared models");
    }
    folder
}

/// Every way in which exporters write the linear layers of one LLaMA.
const VARIANTS: [&str; 10] = [
    "dynamo-fp32",
    "dynamo-fp16",
    "dynamo-fp32-extdata",
    "dynamo-sdpa-fp32",
    "dynamo-opset24-fp32",
    "dynamo-nooptimize-fp32",
    "dynamo-past-fp32",
    "legacy-fp32",
    "legacy-nofold-fp32",
    "legacy-past-fp32",
];

#[test]
fn stories260k_in_every_variant() {
    let (Some(shared), Some(python)) = (shared(), python()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let models = shared.join("models/stories260k");
    let tokenizer = models.join("tokenizer.json");
    let calibration = shared.join("text/tinystories.calibration.txt");
    let text = Text {
        text: shared.join("text/tinystories.sample.txt"),
        tokenizer: tokenizer.clone(),
        window: 256,
        max_tokens: 15_360,
    };
    for variant in VARIANTS {
        let (model, output) = (models.join(variant).join("model.onnx"), folder.path().join(variant));
        let options: [&OsStr; 13] = [
            model.as_ref(),
            "-o".as_ref(),
            output.as_ref(),
            "--calibration".as_ref(),
            calibration.as_ref(),
            "--tokenizer".as_ref(),
            tokenizer.as_ref(),
            "--samples".as_ref(),
            "32".as_ref(),
            "--seq-len".as_ref(),
            "256".as_ref(),
            "--bos".as_ref(),
            "1".as_ref(),
        ];
        zqc_ok(options);
        script(&python, "batches.py", [output.as_os_str(), "512".as_ref()]);
        let (theirs, ours) = (text.by_onnxruntime(&python, &output), text.by_zqc(&output));
        println!("{variant}: ONNX Runtime {theirs:.4}, zqc eval {ours:.4}");
        assert!((theirs / ours - 1.0).abs() < 1e-3, "{variant}: ONNX Runtime {theirs}, zqc eval {ours}");
    }
}
