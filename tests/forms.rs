//! Stacks of experts, fused operators, pointwise convolutions, weights that are quantized already, layers in loops and in functions, domains
//! imported twice and inputs with defaults, through the real command line; stock ONNX Runtime executes what comes out.

mod support;

use serde_json::Value;
use support::{Text, python, script, tiny, zqc_ok};

/// The rows that `tests/ort/forms.py` prints.
fn rows() -> Vec<Value> {
    let python = python();
    let folder = tempfile::tempdir().unwrap();
    let rows = script(&python, "forms.py", [env!("CARGO_BIN_EXE_zqc").as_ref(), folder.path().as_os_str()]);
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert!(!rows.is_empty());
    rows
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn every_form_runs_in_onnxruntime() {
    for row in rows() {
        let form = row["form"].as_str().unwrap();
        let number = |key: &str| row[key].as_f64().unwrap();
        let list = |key: &str| row[key].as_array().unwrap().len();
        // What a layer loses adds up over the turns of a loop, and over four layers.
        let is_deep = form == "loop" || form.starts_with("functions");
        // A layer of 8-bit weights that are rounded to nearest, as few tokens have it, loses 0.7 %.
        let [exact, default] = if is_deep { [0.02, 0.2] } else { [0.01, 0.1] };
        assert!(number("exact") < exact && number("default") < default, "{row}");
        assert_eq!(list("kept"), 0, "{row}");
        assert_eq!(number("twice"), 0.0, "{row}");
        let (layers, places) = match form {
            // One weight before the loop and in it, another in both branches; two weights in turns.
            "loop" | "functions of unnamed nodes" => (2, 4),
            // One that ONNX Runtime fused, and one that it did not.
            "scan" | "fused" => (2, 2),
            _ if form.starts_with("experts") => (6, 6),
            _ if form.starts_with("convolution") || form.starts_with("einsum") => (2, 2),
            _ => (1, 1),
        };
        assert_eq!((list("layers"), row["listed"].as_u64()), (layers, Some(places)), "{row}");
        // No token comes to an expert that none chooses.
        let uncalibrated = if form == "experts, looked up but for one" { 2 } else { 0 };
        assert_eq!(list("uncalibrated"), uncalibrated, "{row}");
        assert_eq!(list("requantized"), usize::from(form.starts_with("dequantized")), "{row}");
    }
}

/// ONNX Runtime's CPU provider has no bfloat16: what comes out is checked by onnx and run by `zqc eval`.
#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn a_model_in_bfloat16_stays_one() {
    let python = python();
    let folder = tempfile::tempdir().unwrap();
    let [model, output] = ["bf16.onnx", "bf16.w4a8.onnx"].map(|name| folder.path().join(name));
    script(&python, "bf16.py", [tiny("model.onnx").as_os_str(), model.as_os_str()]);
    let (calibration, tokenizer) = (tiny("calibration.txt"), tiny("tokenizer.json"));
    zqc_ok([
        model.as_os_str(),
        "-o".as_ref(),
        output.as_os_str(),
        "--calibration".as_ref(),
        calibration.as_os_str(),
        "--tokenizer".as_ref(),
        tokenizer.as_os_str(),
        "--seq-len".as_ref(),
        "256".as_ref(),
        "--samples".as_ref(),
        "16".as_ref(),
    ]);
    script(&python, "checker.py", [&output]);
    let text = Text { text: tiny("heldout.txt"), tokenizer, window: 256, max_tokens: 2560 };
    let (float, source, found) =
        (text.by_zqc(&tiny("model.onnx")), text.by_zqc(&model), text.by_zqc(&output));
    assert!((source / float - 1.0).abs() < 0.01, "bfloat16 {source}, float32 {float}");
    assert!((found / source - 1.0).abs() < 0.03, "W4A8 {found}, bfloat16 {source}");
}
