//! What looks at the end of the model: `--tune` and `--token-weights gradient`.

use zqc::ir::onnx::proto::{GraphProto, ModelProto};
use zqc::ir::tensor::DataType;

use crate::bench::Bench;
use crate::models::{info, matrix, model, node};
use crate::support::{tiny, zqc};

const SHORT: [&str; 8] = ["--samples", "8", "--seq-len", "64", "--group-size", "64", "--lorc-rounds", "1"];

fn options<'a>(calibration: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--calibration", calibration], &SHORT[..], more].concat()
}

/// A model without tokens.
fn projector() -> ModelProto {
    model(GraphProto {
        name: Some("projector".to_string()),
        input: vec![info("x", DataType::Float, &["rows", "64"])],
        output: vec![info("y", DataType::Float, &["rows", "64"])],
        initializer: vec![matrix("w", 64, 64), matrix("v", 64, 64)],
        node: vec![
            node("MatMul", "/first/MatMul", &["x", "w"], "h"),
            node("Relu", "relu", &["h"], "r"),
            node("MatMul", "/second/MatMul", &["r", "v"], "y"),
        ],
        ..Default::default()
    })
}

#[test]
fn the_report_says_what_tuning_did_and_the_size_stays() {
    let bench = Bench::new();
    let (source, text) = (tiny("model.onnx"), tiny("calibration.txt"));
    let text = text.to_str().unwrap();
    let (plain, tuned, report) =
        (bench.path("plain.onnx"), bench.path("tuned.onnx"), bench.path("report.json"));
    bench.compile(&source, &plain, &options(text, &[]));
    let more = ["--tune", "6", "--token-weights", "gradient", "--report", report.to_str().unwrap()];
    let (_, message) = bench.compile(&source, &tuned, &options(text, &more));
    assert!(message.contains("factors in 6 steps"), "{message}");
    let [plain, tuned] = [plain, tuned].map(|path| std::fs::read(path).unwrap());
    assert_ne!(plain, tuned);
    assert!(plain.len().abs_diff(tuned.len()) < 64, "{} {}", plain.len(), tuned.len());
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(report["tuning"]["steps"], 6);
    let [before, after] = [0, 1].map(|at| report["tuning"]["kl"][at].as_f64().unwrap());
    assert!(0.0 < after && after <= before, "{before} {after}");
    let words = report["options"].as_array().unwrap();
    assert!(words.iter().any(|option| option["name"] == "--tune" && option["value"] == "6"));
}

#[test]
fn a_model_without_logits_is_refused_before_anything_is_solved() {
    let bench = Bench::new();
    let model = bench.model(&projector());
    let line = format!("{{\"x\": [{}]}}\n", vec![format!("{:?}", [0.5; 64]); 4].join(", "));
    let data = bench.write("data.jsonl", line);
    let data = data.to_str().unwrap();
    bench.compile(&model, &bench.output(), &["--calibration", data]);
    for asked in [&["--tune", "2"][..], &["--token-weights", "gradient"]] {
        let mut all = vec![model.to_str().unwrap(), "-o", "never.onnx", "--calibration", data];
        all.extend(asked);
        let refused = zqc(&all);
        let message = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && message.contains("logits of a language model"), "{message}");
        assert!(!message.contains("/first"), "no layer was solved: {message}");
    }
}
