//! Real exported models, quantized through the command line and executed by stock ONNX Runtime. They are not part of
//! the project: ZQC_SHARED names the folder that holds the small ones, their tokenizers and the texts, ZQC_MODELS the one
//! with SmolLM2-135M and MiniLM. Nor are these tests part of the suite: `docs/testing.md` has the command.

mod support;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use support::{Text, python, script, zqc_ok};

fn folder(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} names the folder of the models")).into()
}

/// Compiles `model` with calibration text and further options.
fn compile(model: &Path, output: &Path, text: &Path, tokenizer: &Path, options: &[&str]) {
    let fixed: [&OsStr; 7] = [
        model.as_ref(),
        "-o".as_ref(),
        output.as_ref(),
        "--calibration".as_ref(),
        text.as_ref(),
        "--tokenizer".as_ref(),
        tokenizer.as_ref(),
    ];
    zqc_ok(fixed.into_iter().chain(options.iter().map(OsStr::new)));
}

/// Every way in which exporters write the linear layers of one LLaMA.
const VARIANTS: [&str; 14] = [
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
    "local-functions-fp32",
    "ort-optimized",
    OPSET_23,
    "merged-if-fp32",
];
/// ONNX Runtime runs its RotaryEmbedding for a batch of one only.
const OPSET_23: &str = "dynamo-opset23-sdpa-fp32";
/// What other tools quantized before.
const QUANTIZED: [&str; 3] = ["ort-static-qdq-int8", "ort-dynamic-int8", "ort-matmulnbits"];

#[test]
fn stories260k_in_every_variant() {
    let (shared, python) = (folder("ZQC_SHARED"), python());
    let outputs = tempfile::tempdir().unwrap();
    let models = shared.join("models/stories260k");
    let tokenizer = models.join("tokenizer.json");
    let calibration = shared.join("text/tinystories.calibration.txt");
    let text = Text {
        text: shared.join("text/tinystories.sample.txt"),
        tokenizer: tokenizer.clone(),
        window: 256,
        max_tokens: 15_360,
    };
    let mut perplexities = Vec::new();
    for variant in VARIANTS {
        let (model, output) = (models.join(variant).join("model.onnx"), outputs.path().join(variant));
        let options = ["--group-size", "128", "--samples", "32", "--seq-len", "256", "--bos", "1"];
        compile(&model, &output, &calibration, &tokenizer, &options);
        let shapes: &[&str] = if variant == OPSET_23 { &["1,1", "1,37"] } else { &[] };
        let arguments = [output.as_os_str(), "512".as_ref()].into_iter().chain(shapes.iter().map(OsStr::new));
        script(&python, "batches.py", arguments);
        let theirs = text.by_onnxruntime(&python, &output);
        println!("{variant}: {theirs:.4}");
        perplexities.push(theirs);
        let ours = text.by_zqc(&output);
        // In float16 any two implementations round some activations to different FP8 numbers: logits are 2 % apart.
        let limit = if variant.ends_with("fp16") { 3e-3 } else { 1e-3 };
        assert!((theirs / ours - 1.0).abs() < limit, "{variant}: ONNX Runtime {theirs}, zqc eval {ours}");
    }
    let (least, most) = perplexities.iter().fold((f64::MAX, 0.0f64), |(a, b), &p| (a.min(p), b.max(p)));
    assert!(most / least < 1.01, "{least} to {most}");
}

#[test]
fn stories260k_that_is_quantized_already_stays_as_it_is() {
    let shared = folder("ZQC_SHARED");
    let outputs = tempfile::tempdir().unwrap();
    for variant in QUANTIZED {
        let model = shared.join("models/stories260k").join(variant).join("model.onnx");
        let (output, report) = (outputs.path().join(variant), outputs.path().join("report.json"));
        let paths =
            [model.as_os_str(), "-o".as_ref(), output.as_os_str(), "--report".as_ref(), report.as_os_str()];
        zqc_ok(paths);
        assert!(std::fs::read(&model).unwrap() == std::fs::read(&output).unwrap(), "{variant}");
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        let kept = report["kept"].as_array().unwrap();
        assert_eq!(kept.len(), 36, "{variant}");
        let quantized =
            |layer: &serde_json::Value| layer["reason"].as_str().unwrap().contains("already quantized");
        assert!(kept.iter().all(quantized), "{variant}: {kept:?}");
    }
}

/// Compiles SmolLM2-135M and holds the result to bounds for the bits per weight and for the perplexities on
/// WikiText-2 and C4. The head is in float: the bits are those of the decoder.
fn smollm2(options: &str, bits: f64, bounds: [f64; 2]) {
    let (shared, models, python) = (folder("ZQC_SHARED"), folder("ZQC_MODELS"), python());
    let outputs = tempfile::tempdir().unwrap();
    let (output, report) = (outputs.path().join("smollm2.onnx"), outputs.path().join("report.json"));
    let tokenizer = shared.join("models/smollm2-135m/tokenizer.json");
    let fixed = "--head float --samples 16 --seq-len 1024".split_whitespace();
    let fixed = fixed.chain(["--report", report.to_str().unwrap()]);
    let options: Vec<_> = options.split_whitespace().chain(fixed).collect();
    let model = models.join("smollm2-135m.dynamo-fp32.onnx");
    compile(&model, &output, &shared.join("text/wiki.calibration.txt"), &tokenizer, &options);

    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(report["layers"].as_array().unwrap().len(), 210);
    assert!(report["totals"]["bits_per_weight"].as_f64().unwrap() <= bits);
    for (text, bound) in ["wikitext2.test.txt", "c4.sample.txt"].into_iter().zip(bounds) {
        let text = Text {
            text: shared.join("text").join(text),
            tokenizer: tokenizer.clone(),
            window: 1024,
            max_tokens: 20_480,
        };
        let perplexity = text.by_onnxruntime(&python, &output);
        println!("{}: {perplexity:.3}", text.text.display());
        assert!(perplexity <= bound, "{}: {perplexity}", text.text.display());
    }
}

#[test]
fn smollm2_by_plain_gptq_is_as_good_as_an_independent_simulation() {
    let options =
        "--group-size 64 --order natural --scale-search max --scale none --lorc-rank 0 --propagation 0";
    smollm2(options, 4.5, [31.5, 51.5]);
}

#[test]
fn smollm2_by_default_is_better_with_fewer_bits() {
    smollm2("", 4.3, [26.4, 42.5]);
}

#[test]
fn smollm2_with_all_that_4_75_bits_buy() {
    smollm2("--lorc-rank 16", 4.75, [26.0, 42.0]);
}

#[test]
fn minilm_keeps_its_sentence_embeddings() {
    let (shared, models, python) = (folder("ZQC_SHARED"), folder("ZQC_MODELS"), python());
    let outputs = tempfile::tempdir().unwrap();
    let tokenizer = shared.join("models/minilm-l6/tokenizer.json");
    for exporter in ["dynamo", "legacy"] {
        let (model, output) =
            (models.join(format!("minilm-l6.{exporter}-pooler-fp32.onnx")), outputs.path().join(exporter));
        let options = ["--group-size", "64", "--samples", "1024", "--seq-len", "32", "--bos", "101"];
        compile(&model, &output, &shared.join("text/wiki.calibration.txt"), &tokenizer, &options);
        let text = shared.join("text/c4.sample.txt");
        let arguments: [&OsStr; 5] =
            [model.as_ref(), output.as_ref(), text.as_ref(), tokenizer.as_ref(), "50".as_ref()];
        let result = script(&python, "sentences.py", arguments);
        println!("{exporter}: {result}");
        let cosines: serde_json::Value = serde_json::from_str(&result).unwrap();
        assert!(cosines["least"].as_f64().unwrap() >= 0.98, "{exporter}: {cosines}");
    }
}
