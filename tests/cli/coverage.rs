//! Layers that are not in plain sight, and operators that the embedded back end does not know.

use prost::Message;
use serde_json::Value;
use zqc::ir::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, attribute_proto,
};
use zqc::ir::tensor::DataType;

use crate::bench::Bench;
use crate::models::{info, matrix, model, node, npz, string};

/// `y = if condition: tanh(x w) else: (x + x) w`, with one weight.
fn branches() -> ModelProto {
    let branch = |name: &str, result: &str, nodes: Vec<NodeProto>| AttributeProto {
        name: string(name),
        r#type: Some(attribute_proto::AttributeType::Graph as i32),
        g: Some(GraphProto {
            name: string(name),
            node: nodes,
            output: vec![info(result, DataType::Float, &["rows", "32"])],
            ..Default::default()
        }),
        ..Default::default()
    };
    let then = vec![
        node("MatMul", "/then/up/MatMul", &["x", "w"], "product"),
        node("Tanh", "bend", &["product"], "t"),
    ];
    let or_else =
        vec![node("Add", "twice", &["x", "x"], "xx"), node("MatMul", "/else/up/MatMul", &["xx", "w"], "e")];
    let mut choice = node("If", "choice", &["condition"], "y");
    choice.attribute = vec![branch("then_branch", "t", then), branch("else_branch", "e", or_else)];
    model(GraphProto {
        name: string("branches"),
        input: vec![
            info("x", DataType::Float, &["rows", "64"]),
            info("bias", DataType::Float, &["rows", "64"]),
        ],
        output: vec![info("y", DataType::Float, &["rows", "32"])],
        initializer: vec![matrix("w", 64, 32)],
        node: vec![
            node("ReduceSum", "sum", &["bias"], "total"),
            node("Cast", "condition", &["total"], "truth"),
            node("Reshape", "one", &["truth", "shape"], "condition"),
            choice,
        ],
        ..Default::default()
    })
}

fn with_condition() -> ModelProto {
    let mut proto = branches();
    let graph = proto.graph.as_mut().unwrap();
    graph.node[1].attribute.push(zqc::ir::op::attribute::int("to", DataType::Bool as i64));
    graph.initializer.push(zqc::ir::Tensor::from_i64(&[1], vec![1]).unwrap().to_proto("shape"));
    proto
}

fn report(bench: &Bench, model: &ModelProto, data: &[u8]) -> (Value, ModelProto) {
    let (source, sample, report) = (bench.path("m.onnx"), bench.path("s.npz"), bench.path("r.json"));
    std::fs::write(&source, model.encode_to_vec()).unwrap();
    std::fs::write(&sample, data).unwrap();
    let options = ["--calibration", sample.to_str().unwrap(), "--report", report.to_str().unwrap()];
    bench.compile(&source, &bench.output(), &options);
    let written = ModelProto::decode(std::fs::read(bench.output()).unwrap().as_slice()).unwrap();
    (serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap(), written)
}

#[test]
fn branches_that_share_a_weight_store_it_once() {
    let bench = Bench::new();
    let (report, output) = report(&bench, &with_condition(), &npz(&[("x", [8, 64]), ("bias", [8, 64])]));
    let layers = report["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1, "{layers:?}");
    assert!(layers[0]["output_error"].is_number(), "the branch that the data takes calibrates it");
    assert_eq!(report["uncalibrated"].as_array().unwrap().len(), 0);
    let graph = output.graph.unwrap();
    assert!(graph.initializer.iter().all(|tensor| tensor.name() != "w"));
    let codes = |body: &GraphProto| {
        let call = body.node.iter().find(|node| node.op_type().starts_with("W4A8Linear")).unwrap();
        call.input.iter().filter(|name| name.starts_with("w_")).cloned().collect::<Vec<_>>()
    };
    let choice = graph.node.iter().find(|node| node.op_type() == "If").unwrap();
    let [then, or_else] = [0, 1].map(|at| codes(choice.attribute[at].g.as_ref().unwrap()));
    assert!(!then.is_empty() && then == or_else, "{then:?} {or_else:?}");
    assert!(then.iter().all(|name| graph.initializer.iter().any(|tensor| tensor.name() == name)));
}

/// Two layers with an operator between them that no back end knows.
fn mystery() -> ModelProto {
    let mut unknown = node("Mystery", "riddle", &["h"], "g");
    unknown.domain = string("com.example");
    let mut proto = model(GraphProto {
        name: string("mystery"),
        input: vec![info("x", DataType::Float, &["rows", "64"])],
        output: vec![info("y", DataType::Float, &["rows", "64"])],
        initializer: vec![matrix("up", 64, 64), matrix("down", 64, 64)],
        node: vec![
            node("MatMul", "/up/MatMul", &["x", "up"], "h"),
            unknown,
            node("MatMul", "/down/MatMul", &["g", "down"], "y"),
        ],
        ..Default::default()
    });
    proto.opset_import.push(OperatorSetIdProto { domain: string("com.example"), version: Some(1) });
    proto
}

#[test]
fn layers_behind_an_unknown_operator_are_rounded_and_named() {
    let bench = Bench::new();
    let (report, _) = report(&bench, &mystery(), &npz(&[("x", [8, 64])]));
    let layers = report["layers"].as_array().unwrap();
    let errors: Vec<_> =
        layers.iter().map(|layer| (layer["layer"].as_str(), layer["output_error"].is_number())).collect();
    assert_eq!(errors, [(Some("up"), true), (Some("down"), false)]);
    let [kept] = &report["uncalibrated"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!(kept["layer"], "down");
    assert!(kept["reason"].as_str().unwrap().contains("\"riddle\" (Mystery)"), "{kept}");
    let warning = report["warnings"][0].as_str().unwrap();
    assert!(warning.contains("down") && warning.contains("riddle"), "{warning}");
}
