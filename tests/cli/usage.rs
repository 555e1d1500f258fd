//! Options that make no sense: exit code 2. Places that cannot be written: exit code 4.

use std::path::Path;

use crate::bench::Bench;
use crate::models::one_layer;
use crate::support::{tiny, zqc};

fn refuse(options: &[&str], words: &[&str]) {
    Bench::new().refuse_to_compile(2, &tiny("model.onnx"), options, words);
}

#[test]
fn no_output() {
    Bench::new().refuse(2, &tiny("model.onnx"), &["--method", "rtn"], &["--output"]);
}

#[test]
fn no_model() {
    assert_eq!(zqc([""; 0]).status.code(), Some(2));
    assert_eq!(zqc(["inspect"]).status.code(), Some(2));
    assert_eq!(zqc(["eval", "model.onnx"]).status.code(), Some(2));
}

#[test]
fn values_that_are_no_numbers_or_out_of_range() {
    refuse(&["--group-size", "x"], &["--group-size"]);
    refuse(&["--group-size", "-1"], &["-1"]);
    refuse(&["--samples", "0"], &["--samples", "at least 1"]);
    refuse(&["--seq-len", "many"], &["--seq-len"]);
    refuse(&["--threads", "0"], &["--threads", "at least 1"]);
    refuse(&["--threads", "100000"], &["--threads", "at most 1024"]);
    refuse(&["--bos=-1"], &["--bos"]);
}

#[test]
fn tuning_without_calibration_data() {
    refuse(&["--tune", "--method", "rtn"], &["--tune", "calibration data"]);
}

#[test]
fn names_that_nothing_has() {
    refuse(&["--method", "magic"], &["--method", "gptq", "rtn"]);
    refuse(&["--backend", "none", "--method", "rtn"], &["\"none\"", "rten"]);
    refuse(&["--print-ir-after", "lunch"], &["--print-ir-after", "canonicalize"]);
    refuse(&["--unheard-of"], &["--unheard-of"]);
}

#[test]
fn expressions_that_do_not_parse() {
    refuse(&["--keep", "("], &["--keep", "unclosed group"]);
    refuse(&["--only", "["], &["--only"]);
}

#[test]
fn a_window_of_one_token() {
    let bench = Bench::new();
    let (model, text, tokenizer) = (tiny("model.onnx"), tiny("heldout.txt"), tiny("tokenizer.json"));
    let paths = [&model, Path::new("--text"), &text, Path::new("--tokenizer"), &tokenizer];
    let options = [&paths[..], &["--window", "1"].map(Path::new)].concat();
    bench.refuse(2, Path::new("eval"), &options, &["--window", "two tokens"]);
}

#[test]
fn a_report_of_an_unknown_kind() {
    refuse(&["--report", "report.txt", "--method", "rtn"], &["report.txt", ".html", ".json"]);
}

#[test]
fn folders_that_cannot_be_written() {
    let bench = Bench::new();
    let model = bench.model(&one_layer());
    let mut outputs = vec![bench.path("missing/model.onnx"), model.join("model.onnx")];
    if cfg!(target_os = "linux") {
        outputs.push("/proc/model.onnx".into()); // no file can be made there, not even by root
    }
    for output in &outputs {
        let options = [Path::new("--method"), Path::new("rtn"), Path::new("-o"), output];
        bench.refuse(4, &model, &options, &["cannot write", output.to_str().unwrap()]);
    }
}

#[test]
fn an_output_that_is_a_folder() {
    let bench = Bench::new();
    let output = bench.path("out");
    let options = [Path::new("-o"), &output];
    bench.refuse(4, &tiny("model.onnx"), &options, &["cannot write", "is a directory"]);
    bench.refuse(4, &tiny("model.onnx"), &[Path::new("-o"), Path::new("..")], &["cannot write"]);
}

#[test]
fn a_report_that_cannot_be_written_stops_the_run_before_it_starts() {
    let bench = Bench::new();
    let report = bench.path("missing/report.json");
    let words = ["cannot write", "missing/report.json"];
    bench.refuse_to_compile(4, &tiny("model.onnx"), &["--report", report.to_str().unwrap()], &words);
}

#[test]
fn a_failed_run_leaves_the_output_before_it() {
    let bench = Bench::new();
    bench.write("out/model.onnx", "the model before");
    let broken = bench.write("broken.onnx", "no model");
    bench.refuse_to_compile(3, &broken, &[], &["broken.onnx"]);
}
