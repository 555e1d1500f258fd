use zqc_ir::Tensor;
use zqc_ir::onnx::proto::{AttributeProto, FunctionProto, NodeProto, OperatorSetIdProto};
use zqc_ir::op::attribute::tensor;
use zqc_ir::tensor::DataType::Float;
use zqc_passes::{Canonicalize, InlineFunctions};

use crate::builder::{Builder, written};
use crate::{assert_snapshot, run};

const DOMAIN: &str = "user";

fn node(
    domain: &str,
    op_type: &str,
    inputs: &[&str],
    output: &str,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        domain: Some(domain.to_string()),
        op_type: Some(op_type.to_string()),
        input: inputs.iter().map(|name| name.to_string()).collect(),
        output: vec![output.to_string()],
        attribute,
        ..Default::default()
    }
}

fn function(name: &str, inputs: &[&str], opset: i64, nodes: Vec<NodeProto>) -> FunctionProto {
    let import = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.to_string()),
        version: Some(version),
    };
    FunctionProto {
        domain: Some(DOMAIN.to_string()),
        name: Some(name.to_string()),
        input: inputs.iter().map(|name| name.to_string()).collect(),
        output: vec!["y".to_string()],
        opset_import: vec![import("", opset), import(DOMAIN, 1)],
        node: nodes,
        ..Default::default()
    }
}

/// `y = relu(x w)`, the weight an argument; `opset` is the function's.
fn linear(opset: i64) -> FunctionProto {
    let nodes = vec![
        node("", "MatMul", &["x", "w"], "product", Vec::new()),
        node("", "Relu", &["product"], "y", Vec::new()),
    ];
    function("Linear", &["x", "w"], opset, nodes)
}

fn calling(functions: Vec<FunctionProto>, model: Builder) -> Builder {
    let mut model = model;
    model.proto.functions = functions;
    let import = OperatorSetIdProto { domain: Some(DOMAIN.to_string()), version: Some(1) };
    model.proto.opset_import.push(import);
    model
}

fn cases() -> Vec<(&'static str, Builder)> {
    let start = || Builder::new().input("x", Float, "rows 4").constant("w", Float, &[4, 3]);
    let weight = Tensor::from_f32(&[4, 3], vec![0.5; 12]).unwrap().to_proto("");
    let own = function(
        "Own",
        &["x"],
        20,
        vec![
            node("", "Constant", &[], "w", vec![tensor("value", weight)]),
            node("", "MatMul", &["x", "w"], "y", Vec::new()),
        ],
    );
    let outer = function(
        "Outer",
        &["a", "b"],
        20,
        vec![node("", "Neg", &["a"], "n", Vec::new()), node(DOMAIN, "Linear", &["n", "b"], "y", Vec::new())],
    );
    let missing =
        function("Missing", &["a", "b"], 20, vec![node("", "MatMul", &["a", "b"], "z", Vec::new())]);
    let plain = function("Plain", &["a", "b"], 20, vec![node("", "MatMul", &["a", "b"], "y", Vec::new())]);
    let call = |model: Builder, function: &str, inputs: &[&str]| {
        model.node(function, inputs, "y").of(DOMAIN).named("/layers.0/up/call").output("y")
    };
    vec![
        ("weight_as_argument", calling(vec![linear(20)], call(start(), "Linear", &["x", "w"]))),
        ("weight_in_the_body", calling(vec![own], call(start(), "Own", &["x"]))),
        ("nested", calling(vec![outer, linear(20)], call(start(), "Outer", &["x", "w"]))),
        ("another_opset_stays", calling(vec![linear(18)], call(start(), "Linear", &["x", "w"]))),
        ("without_its_output_stays", calling(vec![missing], call(start(), "Missing", &["x", "w"]))),
        (
            "activations_only_stay",
            calling(vec![plain], call(start().input("z", Float, "4 cols"), "Plain", &["x", "z"])),
        ),
    ]
}

#[test]
fn every_place_of_the_weight() {
    for (name, model) in cases() {
        assert_snapshot("inline_functions", name, &run(&[&InlineFunctions], &mut model.build()));
    }
}

#[test]
fn inlined_layers_are_found() {
    for (name, model) in cases() {
        let text = run(&[&InlineFunctions, &Canonicalize::default()], &mut model.build());
        let layers = text.matches("zqc.linear").count();
        assert_eq!(
            layers,
            usize::from(!name.ends_with("stay") && !name.ends_with("stays")),
            "{name}: {text}"
        );
    }
}

#[test]
fn calls_that_stay_come_back_as_they_were() {
    for (name, case) in cases().into_iter().filter(|(name, _)| name.contains("stay")) {
        let mut model = case.build();
        run(&[&InlineFunctions], &mut model);
        assert_eq!(written(&model), case.proto, "{name}");
    }
}

#[test]
fn nodes_without_a_name_get_one_each() {
    let unnamed = function(
        "Unnamed",
        &["x", "w"],
        20,
        vec![
            node("", "Neg", &["x"], "n", Vec::new()),
            node("", "MatMul", &["n", "w"], "product", Vec::new()),
            node("", "Relu", &["product"], "y", Vec::new()),
        ],
    );
    let twice = function(
        "Twice",
        &["x", "w"],
        20,
        vec![
            node(DOMAIN, "Unnamed", &["x", "w"], "a", Vec::new()),
            node(DOMAIN, "Unnamed", &["a", "w"], "y", Vec::new()),
        ],
    );
    let start = Builder::new().input("x", Float, "rows 4").constant("w", Float, &[4, 4]);
    let model = start
        .node("Twice", &["x", "w"], "a")
        .of(DOMAIN)
        .named("call")
        .node("Relu", &["a"], "b")
        .named("call/MatMul")
        .node("Twice", &["b", "w"], "y")
        .of(DOMAIN)
        .named("call/Unnamed")
        .output("y");
    let mut model = calling(vec![unnamed, twice], model).build();
    let text = run(&[&InlineFunctions], &mut model);
    let mut names: Vec<&str> = model.graph.nodes().map(|(_, node)| node.name.as_str()).collect();
    assert_eq!(names.len(), 13, "{text}");
    names.sort();
    names.dedup();
    assert!(names.len() == 13 && names.iter().all(|name| name.starts_with("call")), "{names:?}");
}

#[test]
fn an_overload_keeps_the_functions_that_it_calls() {
    let mut with_layer = linear(20);
    with_layer.overload = Some("second".to_string());
    let first = function("Linear", &["x", "w"], 20, vec![node("", "Add", &["x", "w"], "y", Vec::new())]);
    let model = Builder::new().input("x", Float, "rows 4").constant("w", Float, &[4, 4]);
    let model = model.node("Linear", &["x", "w"], "a").of(DOMAIN).node("Linear", &["a", "w"], "y").of(DOMAIN);
    let mut builder = calling(vec![first, with_layer], model.output("y"));
    builder.proto.graph.as_mut().unwrap().node[1].overload = Some("second".to_string());
    let mut model = builder.build();
    run(&[&InlineFunctions], &mut model);
    let mut kinds: Vec<&str> = model.graph.nodes().map(|(_, node)| node.op.kind()).collect();
    kinds.sort();
    assert_eq!(kinds, ["Linear", "MatMul", "Relu"]);
    assert!(model.function(DOMAIN, "Linear").is_some());
}

/// The reasons for which calls of a function with these nodes stay.
fn kept(nodes: Vec<NodeProto>) -> Vec<String> {
    struct Log(Vec<String>);
    impl zqc_passes::Observer for Log {
        fn layer_kept(&mut self, _: &str, reason: &str) {
            self.0.push(reason.to_string());
        }
    }
    let builder = Builder::new().input("x", Float, "rows 2").constant("w", Float, &[2, 2]);
    let mut builder = builder.node("F", &["x", "w"], "y").output("y");
    let call = &mut builder.proto.graph.as_mut().unwrap().node[0];
    (call.domain, call.name) = (Some(DOMAIN.to_string()), Some("call".to_string()));
    let import = OperatorSetIdProto { domain: Some(DOMAIN.to_string()), version: Some(1) };
    builder.proto.opset_import.push(import);
    let opset = builder.proto.opset_import[0].version();
    builder.proto.functions = vec![function("F", &["x", "w"], opset, nodes)];
    let (mut model, mut log) = (builder.build(), Log(Vec::new()));
    zqc_passes::run(&InlineFunctions, &mut model, &mut log).unwrap();
    log.0
}

#[test]
fn a_function_that_is_not_valid_stays() {
    let product = |x: &str| node("", "MatMul", &[x, "w"], "y", vec![]);
    assert_eq!(kept(vec![product("x")]), [""; 0]);
    let early = |name: &str| [format!("its function F reads \"{name}\" before a node in it defines it")];
    assert_eq!(kept(vec![product("lost")]), early("lost"));
    let late = node("", "Relu", &["x"], "late", vec![]);
    assert_eq!(kept(vec![product("late"), late]), early("late"));
    assert_eq!(kept(vec![product("y")]), early("y"), "the caller's name of its result");
    assert_eq!(kept(vec![product("x"), product("x")]), ["two nodes of its function F yield \"y\""]);
}
