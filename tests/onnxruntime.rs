//! The bundled model through the real command line; stock ONNX Runtime executes what comes out.

mod support;

use support::{Text, python, script, tiny, zqc_ok};

fn heldout() -> Text {
    Text { text: tiny("heldout.txt"), tokenizer: tiny("tokenizer.json"), window: 256, max_tokens: 10_240 }
}

fn compile(output: &std::path::Path, options: &[&str]) {
    let (model, calibration, tokenizer) =
        (tiny("model.onnx"), tiny("calibration.txt"), tiny("tokenizer.json"));
    let paths =
        [model.as_os_str(), "-o".as_ref(), output.as_os_str(), "--tokenizer".as_ref(), tokenizer.as_os_str()];
    let calibration = ["--calibration".as_ref(), calibration.as_os_str()];
    zqc_ok(paths.into_iter().chain(calibration).chain(options.iter().map(|o| o.as_ref())));
}

#[test]
fn stock_onnxruntime_runs_the_compiled_model_and_agrees_with_eval() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("tiny.w4a8.onnx");
    compile(&output, &["--samples", "32", "--seq-len", "256"]);
    script(&python, "checker.py", [&output]);
    script(&python, "batches.py", [output.as_os_str(), "2048".as_ref()]);

    let text = heldout();
    let (theirs, ours) = (text.by_onnxruntime(&python, &output), text.by_zqc(&output));
    assert!((theirs / ours - 1.0).abs() < 1e-3, "ONNX Runtime {theirs}, zqc eval {ours}");
    let float = text.by_onnxruntime(&python, &tiny("model.onnx"));
    assert!(theirs < 1.02 * float, "W4A8 {theirs}, float {float}");
    let float_here = text.by_zqc(&tiny("model.onnx"));
    assert!((float / float_here - 1.0).abs() < 1e-5, "float: ONNX Runtime {float}, zqc eval {float_here}");
}

#[test]
fn gptq_beats_rounding_to_nearest() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let [nearest, solved] = ["rtn", "gptq"].map(|method| {
        let output = folder.path().join(method);
        compile(&output, &["--samples", "64", "--seq-len", "256", "--method", method]);
        heldout().by_onnxruntime(&python, &output)
    });
    assert!(solved < nearest, "GPTQ {solved}, RTN {nearest}");
}

#[test]
fn a_head_that_is_named_is_quantized_too() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("head.onnx");
    compile(&output, &["--method", "rtn", "--only", "lm_head", "q_proj"]);
    let report: serde_json::Value =
        serde_json::from_str(&zqc_ok(["inspect".as_ref(), output.as_os_str(), "--json".as_ref()])).unwrap();
    let quantized = report["linears"].as_array().unwrap().iter().filter(|l| l["format"] == "e2m1");
    assert_eq!(quantized.count(), 6, "five q_proj and the head");
    script(&python, "batches.py", [output.as_os_str(), "2048".as_ref()]);
}
