//! Calibration data and tokenizers that do not fit the model: exit code 3.

use std::path::Path;

use crate::bench::Bench;
use zqc::ir::tensor::DataType;

use crate::models::{hundred_tokens, info, matrix, node, npz, one_layer, one_layer_with};
use crate::support::tiny;

fn refuse(bench: &Bench, model: &Path, calibration: &Path, tokenizer: Option<&Path>, words: &[&str]) {
    let mut options = vec!["--calibration", calibration.to_str().unwrap()];
    options.extend(tokenizer.iter().flat_map(|path| ["--tokenizer", path.to_str().unwrap()]));
    bench.refuse_to_compile(3, model, &options, words);
}

#[test]
fn missing_calibration_file() {
    let bench = Bench::new();
    let tokenizer = tiny("tokenizer.json");
    refuse(&bench, &tiny("model.onnx"), &bench.path("none.txt"), Some(&tokenizer), &["none.txt"]);
}

#[test]
fn missing_tokenizer() {
    let bench = Bench::new();
    let words = ["none.json", "not a usable tokenizer.json"];
    refuse(&bench, &tiny("model.onnx"), &tiny("calibration.txt"), Some(&bench.path("none.json")), &words);
}

#[test]
fn damaged_tokenizer() {
    let bench = Bench::new();
    let whole = std::fs::read(tiny("tokenizer.json")).unwrap();
    let damaged = bench.write("tokenizer.json", &whole[..whole.len() / 2]);
    let words = ["tokenizer.json", "not a usable"];
    refuse(&bench, &tiny("model.onnx"), &tiny("calibration.txt"), Some(&damaged), &words);
}

#[test]
fn text_without_a_tokenizer() {
    let bench = Bench::new();
    let words = ["calibration.txt: text needs a tokenizer"];
    refuse(&bench, &bench.model(&hundred_tokens()), &tiny("calibration.txt"), None, &words);
}

#[test]
fn tokenizer_of_another_model() {
    let bench = Bench::new();
    let tokenizer = tiny("tokenizer.json");
    let words = ["tokenizer.json", "knows only 100", "another model"];
    refuse(&bench, &bench.model(&hundred_tokens()), &tiny("calibration.txt"), Some(&tokenizer), &words);
}

#[test]
fn empty_text() {
    let bench = Bench::new();
    let path = bench.write("empty.txt", "");
    let words = ["empty.txt: holds no sample"];
    refuse(&bench, &tiny("model.onnx"), &path, Some(&tiny("tokenizer.json")), &words);
}

#[test]
fn unknown_kind_of_file() {
    let bench = Bench::new();
    let path = bench.write("data.csv", "1,2");
    refuse(&bench, &tiny("model.onnx"), &path, None, &["data.csv: not a calibration file", ".npz"]);
}

#[test]
fn arrays_for_one_of_two_inputs() {
    let bench = Bench::new();
    let path = bench.write("data.npz", npz(&[("x", [3, 64])]));
    refuse(
        &bench,
        &bench.model(&one_layer()),
        &path,
        None,
        &["data.npz: sample 0", "\"shift\"", "not given"],
    );
}

#[test]
fn arrays_of_another_shape() {
    let bench = Bench::new();
    let path = bench.write("data.npz", npz(&[("x", [3, 65]), ("shift", [3, 32])]));
    refuse(&bench, &bench.model(&one_layer()), &path, None, &["data.npz: sample 0", "\"x\"", "65"]);
}

#[test]
fn damaged_archive() {
    let bench = Bench::new();
    let whole = npz(&[("x", [3, 64]), ("shift", [3, 32])]);
    let path = bench.write("data.npz", &whole[..whole.len() / 2]);
    refuse(&bench, &bench.model(&one_layer()), &path, None, &["data.npz"]);
}

#[test]
fn tokens_that_the_model_does_not_know() {
    let bench = Bench::new();
    let path = bench.write("data.jsonl", "{\"input_ids\": [1, 2, 100]}\n");
    refuse(&bench, &bench.model(&hundred_tokens()), &path, None, &["data.jsonl:1", "100"]);
}

/// That an operator fails on the data of a sample says nothing of the operator.
#[test]
fn arrays_that_do_not_go_together() {
    let bench = Bench::new();
    let model = one_layer_with(|graph| {
        graph.input[1] = info("shift", DataType::Float, &["others", "32"]);
        graph.node[1].output[0] = "total".to_string();
        graph.node.push(node("MatMul", "/next/MatMul", &["total", "next"], "y"));
        graph.initializer.push(matrix("next", 32, 32));
    });
    let rows = |count: usize, width: usize| {
        let row = format!("[{}]", vec!["1.0"; width].join(","));
        format!("[{}]", vec![row; count].join(","))
    };
    let line = |count: usize| format!("{{\"x\": {}, \"shift\": {}}}\n", rows(2, 64), rows(count, 32));
    let path = bench.write("data.jsonl", line(3));
    refuse(&bench, &bench.model(&model), &path, None, &["data.jsonl:1", "\"sum\" failed"]);
    let path = bench.write("data.jsonl", [line(2), line(3)].concat());
    refuse(&bench, &bench.model(&model), &path, None, &["data.jsonl:2", "\"sum\" failed"]);
}

#[test]
fn a_model_that_cannot_write_its_own_text() {
    let bench = Bench::new();
    let words = ["cannot write its own calibration text", "give --calibration", "--method rtn"];
    bench.refuse_to_compile(3, &bench.model(&one_layer()), &[], &words);
}

#[test]
fn a_text_too_short_to_evaluate() {
    let bench = Bench::new();
    let text = bench.write("text.txt", "");
    let (model, tokenizer) = (tiny("model.onnx"), tiny("tokenizer.json"));
    let paths = [&model, Path::new("--text"), &text, Path::new("--tokenizer"), &tokenizer];
    bench.refuse(3, Path::new("eval"), &paths, &["text.txt", "0 tokens"]);
}

#[test]
fn a_model_without_logits_is_not_evaluated() {
    let bench = Bench::new();
    let (model, text, tokenizer) = (bench.model(&one_layer()), tiny("heldout.txt"), tiny("tokenizer.json"));
    let paths = [&model, Path::new("--text"), &text, Path::new("--tokenizer"), &tokenizer];
    bench.refuse(3, Path::new("eval"), &paths, &["model.onnx", "no language model", "token input"]);
}
