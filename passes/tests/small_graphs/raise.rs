use zqc_ir::Model;
use zqc_ir::onnx::proto::{FunctionProto, GraphProto, NodeProto, TensorProto};
use zqc_ir::onnx::{self, proto::ModelProto};
use zqc_ir::tensor::DataType::{self, Float};
use zqc_passes::{LowerPortable, PassError, RaisePortable, Silent};

use crate::builder::{Builder, written};
use crate::lower::{two_layers, w4a8};
use crate::{assert_snapshot, run};

fn lowered() -> ModelProto {
    let mut model = w4a8(two_layers(Float, 5, 3), 2);
    run(&[&LowerPortable], &mut model);
    written(&model)
}

/// How raising the lowered model fails after an edit.
fn malformed(edit: impl Fn(&mut GraphProto)) -> String {
    let mut proto = lowered();
    edit(proto.graph.as_mut().unwrap());
    let mut model = onnx::from_proto(proto).unwrap();
    match zqc_passes::run(&RaisePortable, &mut model, &mut Silent) {
        Err(error @ PassError::Malformed { .. }) => error.to_string(),
        other => panic!("no malformed call: {other:?}"),
    }
}

fn call(graph: &mut GraphProto) -> &mut NodeProto {
    graph.node.iter_mut().find(|node| node.op_type() == "W4A8Linear").unwrap()
}

fn initializer<'g>(graph: &'g mut GraphProto, name: &str) -> &'g mut TensorProto {
    graph.initializer.iter_mut().find(|tensor| tensor.name() == name).unwrap()
}

fn attribute(graph: &mut GraphProto, name: &str, value: i64) {
    let attributes = &mut call(graph).attribute;
    attributes.iter_mut().find(|attribute| attribute.name() == name).unwrap().i = Some(value);
}

fn node(op_type: &str, domain: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_string()),
        domain: Some(domain.to_string()),
        input: inputs.iter().map(|name| name.to_string()).collect(),
        output: outputs.iter().map(|name| name.to_string()).collect(),
        ..Default::default()
    }
}

#[test]
fn calls_become_our_operators() {
    let mut model = onnx::from_proto(lowered()).unwrap();
    assert_snapshot("raise_portable", "two_layers", &run(&[&RaisePortable], &mut model));
}

#[test]
fn malformed_calls_are_named() {
    let codes = "q.weight_e2m1";
    let messages = [
        malformed(|graph| call(graph).attribute.clear()),
        malformed(|graph| attribute(graph, "group_size", 0)),
        malformed(|graph| attribute(graph, "group_size", i64::MIN)),
        malformed(|graph| attribute(graph, "group_size", 3)),
        malformed(|graph| attribute(graph, "output_type", DataType::Int64 as i64)),
        malformed(|graph| attribute(graph, "output_type", i64::MAX)),
        malformed(|graph| call(graph).input.truncate(3)),
        malformed(|graph| call(graph).input.swap(0, 1)),
        malformed(|graph| call(graph).input[2] = "x".to_string()),
        malformed(|graph| initializer(graph, codes).data_type = Some(DataType::Int8 as i32)),
        malformed(|graph| initializer(graph, codes).dims = vec![10]),
        malformed(|graph| initializer(graph, codes).dims = vec![2, 5]),
        malformed(|graph| graph.node.push(node("Neg", "", &[codes], &["negated"]))),
        malformed(|graph| graph.node.push(node("Neg", "", &["x_quantized"], &["negated"]))),
        malformed(|graph| graph.node.push(node("W2A2Linear", "ai.zqc", &["x"], &["unknown"]))),
        malformed(|graph| graph.node.push(node("QuantizeActivationE4M3", "ai.zqc", &[], &["nothing"]))),
        malformed(|graph| {
            graph.node.insert(0, node("QuantizeActivationE4M3", "ai.zqc", &["x"], &["codes", "scales"]));
            call(graph).input[1] = "scales".to_string();
        }),
    ];
    assert_snapshot("raise_portable", "malformed", &messages.join("\n"));
}

#[test]
fn a_newer_version_of_the_functions_is_refused() {
    let mut proto = lowered();
    proto.opset_import[1].version = Some(2);
    let mut model = onnx::from_proto(proto).unwrap();
    let error = zqc_passes::run(&RaisePortable, &mut model, &mut Silent).unwrap_err();
    assert!(error.to_string().starts_with("the model uses version 2 of ai.zqc"), "{error}");
}

#[test]
fn functions_under_the_names_of_earlier_versions_are_refused() {
    let mut proto = lowered();
    let mut old = proto.functions[0].clone();
    old.name = Some("DequantizeE2M1_Thirds".to_string());
    proto.functions.push(old);
    let mut model = onnx::from_proto(proto).unwrap();
    let error = zqc_passes::run(&RaisePortable, &mut model, &mut Silent).unwrap_err().to_string();
    assert!(
        error.contains("DequantizeE2M1_Thirds") && error.contains("compile the float model again"),
        "{error}"
    );
}

#[test]
fn functions_that_a_function_of_the_user_calls_stay() {
    let mut proto = lowered();
    let mut caller = proto.functions[1].clone();
    (caller.domain, caller.name) = (Some("user".to_string()), Some("Weight".to_string()));
    caller.node = vec![node("DequantizeE2M1", "ai.zqc", &["Wq", "Ws"], &["W"])];
    proto.functions.push(caller);
    let mut model = onnx::from_proto(proto).unwrap();
    run(&[&RaisePortable], &mut model);
    assert!(model.function("ai.zqc", "DequantizeE2M1").is_some());
}

#[test]
fn a_model_of_another_writer_stays_as_it_is() {
    let mut model: Model = Builder::new().input("x", Float, "n").node("Neg", &["x"], "y").output("y").build();
    let before = written(&model);
    run(&[&RaisePortable], &mut model);
    assert_eq!(written(&model), before);
}

#[test]
fn a_function_of_our_name_that_is_another_is_refused() {
    type Edit = fn(&mut FunctionProto);
    let edits: [Edit; 3] = [
        |function| function.node[0].op_type = Some("Neg".to_string()),
        |function| function.overload = Some("mine".to_string()),
        |function| function.input.reverse(),
    ];
    for edit in edits {
        let mut proto = lowered();
        let function = proto.functions.iter_mut().find(|function| function.name() == "W4A8Linear").unwrap();
        edit(function);
        let mut model = onnx::from_proto(proto).unwrap();
        let error = zqc_passes::run(&RaisePortable, &mut model, &mut Silent).unwrap_err().to_string();
        assert!(error.contains("ai.zqc::W4A8Linear") && error.contains("another domain"), "{error}");
    }
}

#[test]
fn another_function_of_our_domain_stays() {
    let mut proto = lowered();
    let mut mine = proto.functions[0].clone();
    mine.name = Some("Mine".to_string());
    (mine.input, mine.output) = (vec!["a".to_string()], vec!["b".to_string()]);
    mine.node = vec![node("Neg", "", &["a"], &["b"])];
    proto.functions.push(mine);
    proto.graph.as_mut().unwrap().node.push(node("Mine", "ai.zqc", &["x"], &["negated"]));
    let mut model = onnx::from_proto(proto).unwrap();
    run(&[&RaisePortable], &mut model);
    let kinds: Vec<&str> = model.graph.nodes().map(|(_, node)| node.op.kind()).collect();
    assert!(kinds.contains(&"Mine") && kinds.contains(&"zqc.quantized_linear"), "{kinds:?}");
    assert!(model.function("ai.zqc", "Mine").is_some());
}

#[test]
fn what_is_raised_and_lowered_again_is_what_it_was() {
    let proto = lowered();
    let mut model = onnx::from_proto(proto.clone()).unwrap();
    run(&[&RaisePortable, &LowerPortable], &mut model);
    assert_eq!(written(&model), proto);
}
