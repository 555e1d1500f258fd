//! `--emit cuda`: what is written, what is refused, and that damage is found.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use zqc::formats::relative_error;
use zqc::ir::op::port;
use zqc::ir::{Graph, Op};
use zqc::kernels::Package;
use zqc::passes::{Canonicalize, Silent};

use crate::bench::Bench;
use crate::models::{one_layer, one_layer_with, vector};
use crate::support::{tiny, zqc_ok};

const QUICK: [&str; 4] = ["--emit", "cuda", "--method", "rtn"];

/// The bundled model as a package.
fn compile(bench: &Bench) -> PathBuf {
    let output = bench.path("out/model.zqcuda");
    bench.compile(&tiny("model.onnx"), &output, &QUICK);
    output
}

fn inspect(path: &Path) -> Value {
    let json = zqc_ok(["inspect".as_ref(), path.as_os_str(), "--json".as_ref()]);
    serde_json::from_str(&json).unwrap()
}

#[test]
fn a_package_lists_the_layers_that_the_model_does() {
    let bench = Bench::new();
    let package = inspect(&compile(&bench));
    bench.compile(&tiny("model.onnx"), &bench.output(), &["--method", "rtn", "--group-size", "64"]);
    let model = inspect(&bench.output());
    let comparable = |inspection: &Value| -> Vec<Value> {
        let linears = inspection["linears"].as_array().unwrap().iter().cloned();
        let quantized = linears.filter(|linear| linear["format"] == "e2m1");
        quantized
            .map(|mut linear| {
                linear.as_object_mut().unwrap().remove("bits_per_weight");
                linear
            })
            .collect()
    };
    assert_eq!(comparable(&package), comparable(&model));
    assert_eq!(comparable(&package).len(), 35);
    assert_eq!(package["package_version"], 2);
    assert_eq!(package["activations"], 20, "query, key and value share one, as do gate and up");
    assert!(package.get("opset").is_none());
}

#[test]
fn the_report_is_that_of_the_package() {
    let bench = Bench::new();
    let (output, report) = (bench.path("out/model.zqcuda"), bench.path("report.json"));
    let options = [&QUICK[..], &["--report", report.to_str().unwrap()]].concat();
    let (stdout, stderr) = bench.compile(&tiny("model.onnx"), &output, &options);
    assert_eq!(stdout, "");
    assert!(stderr.contains("35 layers"), "{stderr}");
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert!(report["options"].as_array().unwrap().contains(&json!({"name": "--emit", "value": "cuda"})));
    let files = ["manifest.json", "weights.bin"].map(|name| output.join(name));
    let size: u64 = files.into_iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert_eq!(report["totals"]["file_bytes_after"], size);

    let mut source = zqc::ir::onnx::read(&tiny("model.onnx")).unwrap();
    zqc::passes::run(&Canonicalize::default(), &mut source, &mut Silent).unwrap();
    let package = Package::open(&output).unwrap();
    for layer in report["layers"].as_array().unwrap() {
        let name = layer["layer"].as_str().unwrap();
        let (weight, unpacked) = (weight(&source.graph, name), package.unpack(name).unwrap());
        let codes = unpacked.weight();
        let (k, n) = (layer["k"].as_u64().unwrap() as usize, unpacked.row_scales.len());
        let (up, down) = (&unpacked.up, unpacked.down_values());
        let rank = up.len() / n;
        let branch = |row: usize, column: usize| -> f32 {
            let components = (0..rank).map(|r| up[row * rank + r].to_f32() * down[r * k + column]);
            unpacked.row_scales[row] * components.sum::<f32>()
        };
        let repaired: Vec<f32> = (0..n * k).map(|at| codes[at] + branch(at / k, at % k)).collect();
        let (found, reported) = (relative_error(&repaired, &weight), layer["weight_error"].as_f64().unwrap());
        assert!((found / reported - 1.0).abs() < 1e-3, "{name}: {found}, {reported}");
    }
}

/// The weight of a linear layer, `[n][k]`.
fn weight(graph: &Graph, layer: &str) -> Vec<f32> {
    let found = graph.nodes().find_map(|(_, node)| match &node.op {
        Op::Linear(linear) if linear.layer == layer => Some((linear, node.input(port::WEIGHT)?)),
        _ => None,
    });
    let (linear, value) = found.unwrap_or_else(|| panic!("no layer {layer}"));
    linear.weight_rows(graph.constant(value).unwrap().to_f32().unwrap())
}

#[test]
fn a_package_takes_the_place_of_another_and_of_nothing_else() {
    let bench = Bench::new();
    let output = compile(&bench);
    let before = fs::read(output.join("weights.bin")).unwrap();
    let options = [&QUICK[..], &["--group-size", "128"]].concat();
    bench.compile(&tiny("model.onnx"), &output, &options);
    assert!(fs::read(output.join("weights.bin")).unwrap() != before);
    assert_eq!(fs::read_dir(bench.path("out")).unwrap().count(), 1, "no temporary folder is left");
    fs::write(output.join("notes.txt"), "mine").unwrap();
    let file = bench.write("file", "text");
    for place in [&output, &file, &bench.path("missing/model.zqcuda")] {
        let options = [&QUICK[..], &["-o", place.to_str().unwrap()]].concat();
        bench.refuse(4, &tiny("model.onnx"), &options, &["cannot write", place.to_str().unwrap()]);
    }
    bench.refuse(4, &tiny("model.onnx"), &["-o", output.to_str().unwrap()], &["is a directory"]);
}

#[test]
fn a_failed_run_leaves_the_package_before_it() {
    let bench = Bench::new();
    let output = compile(&bench);
    let broken = bench.write("broken.onnx", "no model");
    let options = [&QUICK[..], &["-o", output.to_str().unwrap()]].concat();
    bench.refuse(3, &broken, &options, &["broken.onnx"]);
}

#[test]
fn a_damaged_package_is_refused() {
    let bench = Bench::new();
    let output = compile(&bench);
    let refuse = |words: &[&str]| bench.refuse(3, Path::new("inspect"), &[&output], words);
    let damage = |file: &str, change: &dyn Fn(&mut Vec<u8>), words: &[&str]| {
        let whole = fs::read(output.join(file)).unwrap();
        let mut damaged = whole.clone();
        change(&mut damaged);
        fs::write(output.join(file), damaged).unwrap();
        refuse(words);
        fs::write(output.join(file), whole).unwrap();
    };
    damage("weights.bin", &|bytes| bytes[100_000] ^= 1, &["weights.bin", "layer model.layers.", "checksum"]);
    damage("weights.bin", &|bytes| bytes.truncate(100_000), &["weights.bin", "100000 bytes", "compile"]);
    damage("weights.bin", &|bytes| bytes.push(0), &["weights.bin", "the manifest says"]);
    damage("manifest.json", &|bytes| bytes.truncate(1000), &["manifest.json", "no manifest"]);
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| {
            let text = String::from_utf8(std::mem::take(bytes)).unwrap();
            assert!(text.contains(from));
            *bytes = text.replacen(from, to, 1).into_bytes();
        }
    };
    damage(
        "manifest.json",
        &replace("\"version\": 2", "\"version\": 1"),
        &["manifest.json", "has version 1", "reads version 2", "compile the model again"],
    );
    damage("manifest.json", &replace("\"n\": 192", "\"n\": 191"), &["manifest.json", "checksum"]);
    fs::remove_file(output.join("weights.bin")).unwrap();
    refuse(&["cannot read", "weights.bin"]);
    let empty = bench.path("empty");
    fs::create_dir(&empty).unwrap();
    bench.refuse(3, Path::new("inspect"), &[&empty], &["without an ONNX model"]);
}

#[test]
fn options_that_kernels_cannot_take() {
    let refuse = |options: &[&str], words: &[&str]| {
        let bench = Bench::new();
        let missing = bench.path("no.onnx"); // the options are checked first
        let output = bench.path("out/model.zqcuda");
        let options = [&["--emit", "cuda", "-o", output.to_str().unwrap()], options].concat();
        bench.refuse(2, &missing, &options, &[words, &["--emit cuda"]].concat());
    };
    for weights in ["fp8", "int8", "int4", "int4-sym"] {
        refuse(&["--weights", weights], &["--weights", weights, "fp4"]);
    }
    for activations in ["e5m2", "int8", "none"] {
        refuse(&["--activations", activations], &["--activations", activations, "fp8"]);
    }
    for group_size in ["1", "16", "96", "192"] {
        refuse(&["--group-size", group_size], &["--group-size", group_size, "128"]);
    }
    refuse(&["--scale", "none"], &["--scale none", "--scale m3", "--group-size 0"]);
    refuse(&["--weights", "e3m0"], &["--scale none", "--scale m2", "--group-size 0"]);
    refuse(&["--weights", "lut4", "--scale", "none"], &["--scale none", "--scale m8", "--group-size 0"]);
    refuse(&["--lorc-factors", "bf16"], &["--lorc-factors bf16", "fp8"]);
    refuse(&["--target", "native"], &["--target native", "--emit onnx"]);
}

#[test]
fn every_kind_of_weight_that_kernels_take() {
    for (options, format, scales, group_size) in [
        (&["--group-size", "32"][..], "e2m1", "m3", 32),
        (&["--group-size", "256"], "e2m1", "m3", 64),
        (&["--scale", "m2", "--lorc-rank", "0", "--lorc-factors", "bf16"], "e2m1", "m2", 64),
        (&["--scale", "m1", "--group-size", "0"], "e2m1", "m2", 64),
        (&["--scale", "none", "--group-size", "0"], "e2m1", "grouped", 64),
        (&["--weights", "lut4"], "lut4", "m8", 64),
        (&["--weights", "lut4", "--group-size", "0"], "lut4", "m8", 64),
        (&["--weights", "lut4", "--scale", "none", "--group-size", "0"], "lut4", "grouped", 64),
        (&["--weights", "e3m0", "--scale", "m2", "--group-size", "32"], "e3m0", "m2", 32),
        (&["--weights", "e3m0", "--group-size", "0"], "e3m0", "grouped", 64),
    ] {
        let bench = Bench::new();
        let output = bench.path("out/model.zqcuda");
        bench.compile(&bench.model(&one_layer()), &output, &[&QUICK, options].concat());
        let layer = &inspect(&output)["linears"][0];
        let found = [&layer["format"], &layer["scales"], &layer["group_size"]];
        assert_eq!(found, [&json!(format), &json!(scales), &json!(group_size)], "{options:?}");
    }
}

#[test]
fn nothing_to_quantize_is_a_package_without_layers() {
    let bench = Bench::new();
    let output = bench.path("out/model.zqcuda");
    let options = [&QUICK[..], &["--only", "no_such_layer$"]].concat();
    let (_, message) = bench.compile(&tiny("model.onnx"), &output, &options);
    assert!(message.contains("no linear layer is left to quantize"), "{message}");
    assert_eq!(inspect(&output)["linears"], json!([]));
}

/// `Gemm` takes a bias of any shape that broadcasts; a package one of a value a row.
#[test]
fn the_bias_of_a_layer() {
    let gemm = |bias: &str| {
        one_layer_with(|graph| {
            graph.node.remove(1);
            graph.node[0].op_type = Some("Gemm".to_string());
            graph.node[0].output = vec!["y".to_string()];
            graph.node[0].input.push(bias.to_string());
            graph.initializer.push(vector("bias", 32));
        })
    };
    let bench = Bench::new();
    let output = bench.path("out/model.zqcuda");
    bench.compile(&bench.model(&gemm("bias")), &output, &QUICK);
    assert_eq!(inspect(&output)["linears"][0]["bias"], true);
    let (_, message) = bench.compile(&bench.model(&gemm("shift")), &output, &QUICK);
    assert!(message.contains("stays in float: proj"), "{message}");
    assert_eq!(inspect(&output)["linears"], json!([]));
}
