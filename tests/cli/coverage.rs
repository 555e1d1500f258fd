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

/// A loop that takes as many turns as `count`, or that has no end, over `tanh(state up) down` or over that with an unknown
/// operator in place of `tanh`.
fn looping(count: Option<i64>, bend: NodeProto) -> ModelProto {
    let state = |name: &str| info(name, DataType::Float, &["rows", "64"]);
    let body = GraphProto {
        name: string("turn"),
        input: vec![info("turn", DataType::Int64, &[]), info("going", DataType::Bool, &[]), state("state")],
        output: vec![info("goes_on", DataType::Bool, &[]), state("next")],
        node: vec![
            node("Identity", "on", &["going"], "goes_on"),
            node("MatMul", "/up/MatMul", &["state", "up"], "h"),
            bend,
            node("MatMul", "/down/MatMul", &["g", "down"], "next"),
        ],
        ..Default::default()
    };
    let counter = count.map_or("", |_| "count");
    let mut turns = node("Loop", "turns", &[counter, "", "x"], "y");
    turns.attribute = vec![AttributeProto {
        name: string("body"),
        r#type: Some(attribute_proto::AttributeType::Graph as i32),
        g: Some(body),
        ..Default::default()
    }];
    let mut proto = model(GraphProto {
        name: string("looping"),
        input: vec![state("x")],
        output: vec![state("y")],
        initializer: vec![matrix("up", 64, 64), matrix("down", 64, 64)],
        node: vec![turns],
        ..Default::default()
    });
    let count = count.map(|count| zqc::ir::Tensor::from_i64(&[], vec![count]).unwrap().to_proto("count"));
    proto.graph.as_mut().unwrap().initializer.extend(count);
    proto.opset_import.push(OperatorSetIdProto { domain: string("com.example"), version: Some(1) });
    proto
}

#[test]
fn a_loop_is_calibrated_on_its_turns() {
    let bench = Bench::new();
    let mut unknown = node("Mystery", "riddle", &["h"], "g");
    unknown.domain = string("com.example");
    let tanh = node("Tanh", "bend", &["h"], "g");
    let cases = [
        (Some(3), &tanh, [true, true], "", "its outputs are those of the quantized model"),
        (Some(0), &tanh, [false, false], "no sample enters it", "its outputs are those"),
        (None, &tanh, [true, true], "", "it does not end within 256 iterations"),
        (Some(3), &unknown, [true, false], "\"riddle\" (Mystery)", "no run"),
    ];
    for (count, bend, calibrated, reason, verification) in cases {
        let (report, _) = report(&bench, &looping(count, bend.clone()), &npz(&[("x", [8, 64])]));
        let layers = report["layers"].as_array().unwrap().iter();
        let found: Vec<bool> = layers.map(|layer| layer["output_error"].is_number()).collect();
        assert_eq!(found, calibrated, "{count:?} {report}");
        let named = report["uncalibrated"].as_array().unwrap();
        assert_eq!(named.len(), calibrated.iter().filter(|&&there| !there).count(), "{count:?} {named:?}");
        assert!(named.iter().all(|layer| layer["reason"].as_str().unwrap().contains(reason)), "{named:?}");
        assert!(report["verification"].as_str().unwrap().contains(verification), "{count:?} {report}");
    }
}
