//! Operators that the embedded back end does not run: ONNX Runtime does, where there is one.

use std::process::Command;

use serde_json::Value;
use zqc::ir::onnx::proto::{GraphProto, ModelProto, NodeProto};
use zqc::ir::op::attribute;
use zqc::ir::tensor::DataType;

use crate::bench::Bench;
use crate::models::{info, matrix, model, node, npz, string};

/// A layer, these nodes from `h` to `g`, another layer.
fn around(nodes: Vec<NodeProto>) -> ModelProto {
    let up = node("MatMul", "/up/MatMul", &["x", "up"], "h");
    let down = node("MatMul", "/down/MatMul", &["g", "down"], "y");
    model(GraphProto {
        name: string("around"),
        input: vec![info("x", DataType::Float, &["rows", "64"])],
        output: vec![info("y", DataType::Float, &["rows", "64"])],
        initializer: vec![matrix("up", 64, 64), matrix("down", 64, 64)],
        node: [vec![up], nodes, vec![down]].concat(),
        ..Default::default()
    })
}

/// A standard operator that rten refuses when it is loaded.
fn refused() -> Vec<NodeProto> {
    vec![node("ThresholdedRelu", "bend", &["h"], "g")]
}

/// An operator that rten loads, and does not run on numbers of this type.
fn failing() -> Vec<NodeProto> {
    let cast = |name: &str, input: &str, output: &str, to: DataType| NodeProto {
        attribute: vec![attribute::int("to", to as i64)],
        ..node("Cast", name, &[input], output)
    };
    vec![
        cast("whole", "h", "bytes", DataType::Uint8),
        node("Max", "most", &["bytes", "bytes"], "greatest"),
        cast("float", "greatest", "g", DataType::Float),
    ]
}

/// The report on such a model, and what was said, with the variables of ONNX Runtime set or its places empty.
fn compile(nodes: Vec<NodeProto>, with_onnxruntime: bool, options: &[&str]) -> (i32, Value, String) {
    let bench = Bench::new();
    let (source, sample) = (bench.model(&around(nodes)), bench.write("s.npz", npz(&[("x", [8, 64])])));
    let report = bench.path("r.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_zqc"));
    command.arg(&source).arg("-o").arg(bench.output()).arg("--calibration").arg(&sample);
    command.arg("--report").arg(&report).args(options);
    if !with_onnxruntime {
        command.env_remove("ORT_DYLIB_PATH").env_remove("VIRTUAL_ENV").env("PATH", bench.path("out"));
    }
    let output = command.output().unwrap();
    let report = std::fs::read(&report).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
    (output.status.code().unwrap(), report, String::from_utf8(output.stderr).unwrap())
}

fn calibrated(report: &Value) -> Vec<bool> {
    report["layers"].as_array().unwrap().iter().map(|layer| layer["output_error"].is_number()).collect()
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn onnxruntime_runs_what_rten_cannot() {
    for (nodes, operator) in [(refused(), "ThresholdedRelu"), (failing(), "Max")] {
        let (code, report, said) = compile(nodes, true, &[]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(calibrated(&report), [true, true], "{report}");
        assert_eq!(report["onnxruntime"]["operators"], serde_json::json!([operator]));
        let path = report["onnxruntime"]["path"].as_str().unwrap();
        assert!(said.contains(path) && said.contains(&format!("ran what rten cannot: {operator}")), "{said}");
        assert!(report["verification"].as_str().unwrap().contains("its outputs are those of"), "{report}");
    }
}

#[test]
fn without_it_the_layers_behind_are_rounded() {
    for (nodes, operator) in [(refused(), "\"bend\" (ThresholdedRelu)"), (failing(), "\"most\" (Max)")] {
        let (code, report, said) = compile(nodes, false, &[]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(calibrated(&report), [true, false], "{report}");
        assert!(report["onnxruntime"].is_null(), "{report}");
        let reason = report["uncalibrated"][0]["reason"].as_str().unwrap();
        for word in [operator, "rten cannot run", "ONNX Runtime was not found", "pip install onnxruntime"] {
            assert!(reason.contains(word) && said.contains(word), "no {word:?} in {reason} or {said}");
        }
    }
}

#[test]
fn rten_alone_looks_for_nothing() {
    let (code, report, said) = compile(refused(), true, &["--backend", "rten"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(calibrated(&report), [true, false], "{report}");
    assert!(report["onnxruntime"].is_null() && !said.contains("ONNX Runtime"), "{said}");
}

#[test]
fn a_folder_of_its_name_where_one_works_is_not_onnxruntime() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.path("onnxruntime/capi")).unwrap();
    bench.write("onnxruntime/__init__.py", "");
    bench.write("onnxruntime/capi/libonnxruntime.so", "whatever lies there");
    let (source, sample) = (bench.model(&around(refused())), bench.write("s.npz", npz(&[("x", [8, 64])])));
    let mut command = Command::new(env!("CARGO_BIN_EXE_zqc"));
    command
        .arg(&source)
        .arg("-o")
        .arg(bench.output())
        .arg("--calibration")
        .arg(&sample)
        .args(["--backend", "ort"]);
    let output = command.env_remove("ORT_DYLIB_PATH").current_dir(bench.path("")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    // Whether there is an ONNX Runtime or not.
    assert!(!said.contains(bench.path("onnxruntime").to_str().unwrap()), "{said}");
}
