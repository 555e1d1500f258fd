//! Models that are damaged, incomplete or hostile: exit code 3, and the message says what to look at.

use std::path::Path;

use zqc::ir::onnx::proto::tensor_proto::DataLocation;
use zqc::ir::onnx::proto::{ModelProto, StringStringEntryProto};

use crate::bench::Bench;
use crate::models::{function, hundred_tokens, model, one_layer, one_layer_calling, one_layer_with};
use crate::support::tiny;

const RTN: [&str; 2] = ["--method", "rtn"];

fn refuse(proto: &ModelProto, words: &[&str]) {
    let bench = Bench::new();
    bench.refuse_to_compile(3, &bench.model(proto), &RTN, words);
}

#[test]
fn truncated() {
    let bytes = std::fs::read(tiny("model.onnx")).unwrap();
    for length in [100, 50_000, bytes.len() / 2, bytes.len() - 1] {
        let bench = Bench::new();
        let path = bench.write("model.onnx", &bytes[..length]);
        bench.refuse_to_compile(3, &path, &RTN, &[path.to_str().unwrap()]);
    }
}

#[test]
fn no_protobuf() {
    let bench = Bench::new();
    let path = bench.write("model.onnx", "PK\u{3}\u{4} this is a text");
    bench.refuse_to_compile(3, &path, &RTN, &["model.onnx: this is not an ONNX model"]);
}

#[test]
fn empty() {
    let bench = Bench::new();
    let path = bench.write("model.onnx", "");
    bench.refuse_to_compile(3, &path, &RTN, &["model.onnx: this is not an ONNX model: it has no graph"]);
}

#[test]
fn missing() {
    let bench = Bench::new();
    bench.refuse_to_compile(3, &bench.path("model.onnx"), &RTN, &["model.onnx: cannot read"]);
}

#[test]
fn a_folder() {
    let bench = Bench::new();
    bench.refuse_to_compile(3, &bench.path("out"), &RTN, &["out: it is a folder without an ONNX model"]);
}

#[test]
fn external_data_that_cannot_be_had() {
    let external = |location: &str| {
        one_layer_with(|graph| {
            let weight = &mut graph.initializer[0];
            weight.raw_data = None;
            weight.data_location = Some(DataLocation::External as i32);
            let (key, value) = (Some("location".to_string()), Some(location.to_string()));
            weight.external_data = vec![StringStringEntryProto { key, value }];
        })
    };
    refuse(&external("weights.bin"), &["model.onnx: ", "\"w\"", "weights.bin", "copy it beside the model"]);
    refuse(
        &external("../weights.bin"),
        &["model.onnx: ", "\"w\"", "\"../weights.bin\" leaves the model's own folder"],
    );
    refuse(
        &external("/etc/hostname"),
        &["model.onnx: ", "\"w\"", "\"/etc/hostname\" leaves the model's own folder"],
    );
}

#[test]
fn initializer_of_another_size() {
    let proto = one_layer_with(|graph| graph.initializer[0].dims = vec![64, 33]);
    refuse(&proto, &["model.onnx: initializer \"w\"", "needs 8448", "has 8192"]);
}

#[test]
fn dimensions_that_overflow() {
    let proto = one_layer_with(|graph| graph.initializer[0].dims = vec![i64::MAX, i64::MAX]);
    refuse(&proto, &["model.onnx: initializer \"w\"", "overflow"]);
}

#[test]
fn cyclic() {
    let proto = one_layer_with(|graph| graph.node[0].input[0] = "y".to_string());
    refuse(&proto, &["model.onnx: ", "cycle", "MatMul \"/proj/MatMul\"", "Add \"sum\""]);
}

#[test]
fn undefined_value() {
    let proto = one_layer_with(|graph| graph.node[0].input[0] = "nowhere".to_string());
    refuse(&proto, &["model.onnx: ", "MatMul \"/proj/MatMul\"", "\"nowhere\""]);
}

#[test]
fn weights_that_are_not_finite() {
    for (poison, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut proto = hundred_tokens();
        let weight = proto.graph.as_mut().unwrap().initializer[1].raw_data.as_mut().unwrap();
        let mut bytes = weight.to_vec();
        bytes[400..404].copy_from_slice(&poison.to_le_bytes());
        *weight = bytes.into();
        let bench = Bench::new();
        let path = bench.model(&proto);
        let tokens = bench.write("tokens.jsonl", "{\"input_ids\": [1, 2, 3, 4]}\n");
        bench.refuse_to_compile(3, &path, &RTN, &["layer inner", "weight in row", word]);
        let calibration = ["--calibration", tokens.to_str().unwrap()];
        bench.refuse_to_compile(3, &path, &calibration, &["layer inner", "weight in row", word]);
    }
}

#[test]
fn nothing_but_a_header() {
    refuse(&ModelProto { graph: None, ..one_layer() }, &["model.onnx: ", "no graph"]);
    refuse(
        &ModelProto { opset_import: Vec::new(), ..model(Default::default()) },
        &["model.onnx: ", "no opset import"],
    );
}

#[test]
fn functions_without_end() {
    let itself = one_layer_calling(vec![function("user", "Itself", &[("user", "Itself")])]);
    refuse(&itself, &["model.onnx: ", "cycle: user::Itself -> user::Itself"]);
    let two = [function("user", "A", &[("", "Neg"), ("user", "B")]), function("user", "B", &[("user", "A")])];
    refuse(&one_layer_calling(two.to_vec()), &["model.onnx: ", "cycle: user::A -> user::B -> user::A"]);
}

#[test]
fn a_function_of_our_name() {
    let foreign = one_layer_calling(vec![function("ai.zqc", "QuantizeActivationE4M3", &[("", "Identity")])]);
    refuse(&foreign, &["ai.zqc::QuantizeActivationE4M3", "give it another domain"]);
    let bench = Bench::new();
    let path = bench.model(&foreign);
    bench.refuse::<&str>(
        3,
        Path::new("inspect"),
        &[path.to_str().unwrap()],
        &["ai.zqc::QuantizeActivationE4M3"],
    );
}
