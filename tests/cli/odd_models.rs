//! Models that are valid and unusual: what is quantized, what is told, and what is verified.

use prost::Message;
use serde_json::Value;
use zqc::ir::onnx::proto::{FunctionProto, ModelProto, NodeProto};
use zqc::ir::tensor::DataType;

use crate::bench::Bench;
use crate::models::{info, matrix, node, one_layer, one_layer_with, vector};
use crate::support::{tiny, zqc_ok};

const VERIFIED: &str = "its outputs are those of the quantized model";

/// Compiles the model with one sample of `x` and `shift` as `extra` has them beside; what is printed.
fn compiled(proto: &ModelProto, bench: &Bench, options: &[&str]) -> String {
    let row = |length: usize| format!("[{}]", vec!["0.5"; length].join(", "));
    let sample = format!("{{\"x\": [{}], \"shift\": [{}]}}\n", row(64), row(32));
    let sample = bench.write("sample.jsonl", sample.repeat(16));
    let calibration = ["--calibration", sample.to_str().unwrap()];
    let (_, printed) = bench.compile(&bench.model(proto), &bench.output(), &[&calibration, options].concat());
    printed
}

fn layers(path: &std::path::Path) -> Vec<Value> {
    let inspection = zqc_ok(["inspect".as_ref(), path.as_os_str(), "--json".as_ref()]);
    let inspection: Value = serde_json::from_str(&inspection).unwrap();
    inspection["linears"].as_array().unwrap().clone()
}

/// `y = (x w) + shift` with the product in a function.
fn in_a_function() -> ModelProto {
    let mut proto = one_layer_with(|graph| {
        graph.node[0].op_type = Some("Product".to_string());
        graph.node[0].domain = Some("user".to_string());
    });
    let import = |domain: &str, version| zqc::ir::onnx::proto::OperatorSetIdProto {
        domain: Some(domain.to_string()),
        version: Some(version),
    };
    proto.opset_import.push(import("user", 1));
    proto.functions = vec![FunctionProto {
        domain: Some("user".to_string()),
        name: Some("Product".to_string()),
        input: vec!["a".to_string(), "b".to_string()],
        output: vec!["c".to_string()],
        node: vec![NodeProto { name: None, ..node("MatMul", "", &["a", "b"], "c") }],
        opset_import: vec![import("", 20)],
        ..Default::default()
    }];
    proto
}

#[test]
fn layers_in_functions_are_listed_and_compiled_alike() {
    let bench = Bench::new();
    let path = bench.model(&in_a_function());
    let before = layers(&path);
    assert_eq!(before.len(), 1);
    assert_eq!((before[0]["k"].as_u64(), before[0]["n"].as_u64()), (Some(64), Some(32)));
    assert!(compiled(&in_a_function(), &bench, &[]).contains(VERIFIED));
    let after = layers(&bench.output());
    assert_eq!(after.len(), 1);
    assert_eq!(
        (after[0]["layer"].as_str(), after[0]["format"].as_str()),
        (before[0]["layer"].as_str(), Some("e2m1"))
    );
}

#[test]
fn outputs_that_are_not_finite_are_not_called_equal() {
    let mut proto = one_layer_with(|graph| {
        graph.input.truncate(1);
        graph.initializer.push(vector("shift", 32));
    });
    let shift = &mut proto.graph.as_mut().unwrap().initializer[1];
    shift.raw_data = Some(f32::NAN.to_le_bytes().repeat(32).into());
    let bench = Bench::new();
    let (_, printed) = bench.compile(&bench.model(&proto), &bench.output(), &["--method", "rtn"]);
    assert!(printed.contains("no finite output to compare") && !printed.contains(VERIFIED), "{printed}");
}

#[test]
fn a_weight_that_a_caller_may_override_stays_in_float() {
    let overridable = one_layer_with(|graph| {
        graph.input.push(info("w", DataType::Float, &["64", "32"]));
        graph.initializer.push(matrix("v", 32, 64));
        graph.node[1].output[0] = "sum".to_string();
        graph.node.push(node("MatMul", "/second/MatMul", &["sum", "v"], "y"));
        graph.output[0] = info("y", DataType::Float, &["batch", "64"]);
    });
    let bench = Bench::new();
    let printed = compiled(&overridable, &bench, &[]);
    assert!(printed.contains(VERIFIED) && printed.contains("which a caller may override"), "{printed}");
    let formats: Vec<Value> = layers(&bench.output()).iter().map(|layer| layer["format"].clone()).collect();
    assert_eq!(formats, ["e2m1"], "inspect lists what can be a layer");
    let written = ModelProto::decode(std::fs::read(bench.output()).unwrap().as_slice()).unwrap();
    assert_eq!(written.graph.unwrap().input.len(), 3);
}

#[test]
fn a_value_that_a_caller_may_override_is_its_default_in_calibration() {
    let with_default = one_layer_with(|graph| {
        graph.initializer.push(vector("scale", 64));
        graph.input.push(info("scale", DataType::Float, &["64"]));
        graph.node[0].input[0] = "scaled".to_string();
        graph.node.insert(0, node("Mul", "scale", &["x", "scale"], "scaled"));
    });
    let bench = Bench::new();
    let printed = compiled(&with_default, &bench, &[]);
    assert!(printed.contains(VERIFIED) && !printed.contains("rounded to nearest"), "{printed}");
}

/// In IR version 3 every initializer is listed among the inputs, and is a constant.
#[test]
fn constants_that_old_models_list_as_inputs_are_quantized() {
    let mut old = one_layer_with(|graph| graph.input.push(info("w", DataType::Float, &["64", "32"])));
    old.ir_version = Some(3);
    old.opset_import[0].version = Some(11);
    let bench = Bench::new();
    assert!(compiled(&old, &bench, &[]).contains(VERIFIED));
    assert_eq!(layers(&bench.output())[0]["format"], "e2m1");
}

#[test]
fn a_weight_on_the_left_is_quantized() {
    let left = one_layer_with(|graph| {
        graph.initializer.push(matrix("v", 48, 32));
        graph.output[0] = info("u", DataType::Float, &["48", "batch"]);
        graph.node.push(node("Transpose", "turn", &["y"], "t"));
        graph.node.push(node("MatMul", "left", &["v", "t"], "u"));
    });
    let bench = Bench::new();
    let printed = compiled(&left, &bench, &[]);
    assert!(printed.contains(VERIFIED), "{printed}");
    let formats: Vec<Value> = layers(&bench.output()).iter().map(|layer| layer["format"].clone()).collect();
    assert_eq!(formats, ["e2m1", "e2m1"]);
}

#[test]
fn an_operand_of_an_unknown_operator_is_named_by_both_commands() {
    const REASON: &str = "it is an operand of custom::Product, which zqc does not know";
    let mut unknown = one_layer_with(|graph| {
        graph.initializer.push(matrix("v", 32, 48));
        graph.output[0] = info("u", DataType::Float, &["batch", "48"]);
        let product = node("Product", "/next/Product", &["y", "v"], "u");
        graph.node.push(NodeProto { domain: Some("custom".to_string()), ..product });
    });
    unknown.opset_import.push(zqc::ir::onnx::proto::OperatorSetIdProto {
        domain: Some("custom".to_string()),
        version: Some(1),
    });
    let bench = Bench::new();
    let path = bench.model(&unknown);
    let (_, printed) = bench.compile(&path, &bench.output(), &["--method", "rtn"]);
    assert!(printed.contains(&format!("stays in float: next ({REASON})")), "{printed}");
    let listed = zqc_ok(["inspect".as_ref(), path.as_os_str()]);
    assert!(listed.contains(&format!("not compiled: next ({REASON})")), "{listed}");
    let listed = zqc_ok(["inspect".as_ref(), path.as_os_str(), "--json".as_ref()]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["kept"], serde_json::json!([{ "layer": "next", "reason": REASON }]));
}

#[test]
fn an_output_that_is_larger_says_why() {
    let shared = one_layer_with(|graph| {
        graph.output.push(info("v", DataType::Float, &["64", "32"]));
        graph.node.push(node("Neg", "other reader", &["w"], "v"));
    });
    let bench = Bench::new();
    let printed = compiled(&shared, &bench, &[]);
    let reason = "the output is larger than the model: constants stay beside the layers made of them, as other nodes read \
                  them: \"w\" (8.19 kB)";
    assert!(printed.contains(reason), "{printed}");
    assert!(!compiled(&one_layer(), &bench, &[]).contains("constants stay"));
}

#[test]
fn a_domain_that_is_imported_twice_comes_out_once() {
    let mut proto = one_layer();
    proto.opset_import[0].version = Some(17);
    proto.opset_import.push(proto.opset_import[0].clone());
    let bench = Bench::new();
    assert!(compiled(&proto, &bench, &[]).contains(VERIFIED));
    let written = ModelProto::decode(std::fs::read(bench.output()).unwrap().as_slice()).unwrap();
    let imports: Vec<_> = written.opset_import.iter().map(|i| (i.domain(), i.version())).collect();
    assert_eq!(imports, [("", 19), ("ai.zqc", 1)]);
}

/// What an earlier run quantized is run in calibration, and comes back as it was.
#[test]
fn a_second_run_quantizes_the_rest() {
    let bench = Bench::new();
    let first = bench.path("first.onnx");
    let [text, tokenizer] = ["calibration.txt", "tokenizer.json"].map(tiny);
    let [text, tokenizer] = [&text, &tokenizer].map(|path| path.to_str().unwrap());
    let options = ["--calibration", text, "--tokenizer", tokenizer, "--samples", "4", "--seq-len", "64"];
    let only = [&options[..], &["--only", "self_attn", "--activations", "int8"]].concat();
    bench.compile(&tiny("model.onnx"), &first, &only);
    let (_, printed) = bench.compile(&first, &bench.output(), &options);
    assert!(printed.contains(VERIFIED) && !printed.contains("rounded to nearest"), "{printed}");
    let [before, after] = [&first, &bench.output()].map(|path| {
        let proto = ModelProto::decode(std::fs::read(path).unwrap().as_slice()).unwrap();
        let graph = proto.graph.unwrap();
        let is_old = |node: &&NodeProto| node.name().contains("self_attn");
        let mut nodes: Vec<NodeProto> = graph.node.iter().filter(is_old).cloned().collect();
        // In which pass a layer is folded depends on what other layers there are.
        nodes.iter_mut().for_each(|node| node.attribute.retain(|attribute| attribute.name() != "turn"));
        let is_read = |name: &str| nodes.iter().any(|node| node.input.iter().any(|input| input == name));
        let constants: Vec<_> =
            graph.initializer.into_iter().filter(|tensor| is_read(tensor.name())).collect();
        (nodes, constants, proto.functions)
    });
    assert!(before.0.len() == 20 && before.1.len() == 60, "{} and {}", before.0.len(), before.1.len());
    assert!(before.0 == after.0 && before.1 == after.1, "the layers of the first run came back changed");
    assert!(before.2.iter().all(|function| after.2.contains(function)));
    assert_eq!(layers(&bench.output()).iter().filter(|layer| layer["format"] == "e2m1").count(), 35);
}
