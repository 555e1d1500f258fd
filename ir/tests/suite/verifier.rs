//! Every fault is found, and says where it is.

use zqc_formats::Format;
use zqc_ir::onnx::proto::ModelProto;
use zqc_ir::onnx::{ModelError, from_proto};
use zqc_ir::op::{Layout, Linear, QuantizedLinear};
use zqc_ir::tensor::DataType;
use zqc_ir::verify::{Faults, verify};
use zqc_ir::{Change, Graph, Model, NewNode, Op, Patch, Tensor};

use crate::protos::{floats, info, node, small, string};

fn small_with(change: impl FnOnce(&mut zqc_ir::onnx::proto::GraphProto)) -> ModelProto {
    let mut proto = small();
    change(proto.graph.as_mut().unwrap());
    proto
}

/// The faults of a model, one a line.
fn faults(proto: ModelProto) -> Vec<String> {
    match from_proto(proto).unwrap_err() {
        ModelError::Invalid(faults) => lines(&faults),
        other => panic!("{other}"),
    }
}

fn lines(faults: &Faults) -> Vec<String> {
    faults.0.iter().map(|fault| format!("{}: {}", fault.place, fault.message)).collect()
}

fn redefined(proto: ModelProto) -> String {
    match from_proto(proto).unwrap_err() {
        ModelError::Redefined { value } => value,
        other => panic!("{other}"),
    }
}

/// What is wrong once the small model's product is `op`, reading these values.
fn product_as(op: Op, inputs: &[&str], constants: Vec<(String, Tensor)>) -> Vec<String> {
    // What an operator yields that nobody knows may be of any type.
    let placeholder = small_with(|graph| graph.node[0].op_type = string("Placeholder"));
    let mut model = from_proto(placeholder).unwrap();
    let product = model.graph.producer(model.graph.find("xw").unwrap()).unwrap();
    let inputs = inputs.iter().map(|name| string(name)).collect();
    let outputs = vec![string("xw")];
    let new =
        NewNode { name: "product".to_string(), op, regions: Vec::new(), inputs, outputs, source_index: None };
    let change =
        Change { initializers: constants, remove: vec![product], add: vec![new], ..Change::new("test") };
    Patch { changes: vec![change], ..Patch::default() }.apply(&mut model).unwrap();
    lines(&verify(&model).unwrap_err())
}

#[test]
fn undefined_values_are_reported_with_their_readers() {
    let faults = faults(small_with(|graph| {
        graph.node[1].input[0] = "nowhere".to_string();
        graph.output.push(info("nothing", DataType::Float, "?"));
        graph.node.push(node("Neg", "", &["lost"], &["unnamed"]));
    }));
    assert_eq!(
        faults,
        [
            "node Relu \"relu\": it reads \"nowhere\", which nothing defines",
            "node Neg -> \"unnamed\": it reads \"lost\", which nothing defines",
            "graph output: it reads \"nothing\", which nothing defines",
        ]
    );
}

#[test]
fn a_cycle_is_reported_with_its_nodes() {
    let cyclic = faults(small_with(|graph| graph.node[0].input[0] = "y".to_string()));
    let cycle = "MatMul \"product\" -> Relu \"relu\"";
    assert_eq!(cyclic, [format!("graph: nodes read each other's results in a cycle: {cycle}")]);
    let narcissist = faults(small_with(|graph| graph.node[1].input[0] = "y".to_string()));
    assert_eq!(narcissist, ["graph: nodes read each other's results in a cycle: Relu \"relu\""]);
}

#[test]
fn faults_of_several_kinds_are_reported_together() {
    let faults = faults(small_with(|graph| {
        graph.node[0].input = vec!["y".to_string(), "nowhere".to_string()];
    }));
    assert_eq!(faults.len(), 2);
    assert!(faults[0].contains("nowhere") && faults[1].contains("cycle"));
}

#[test]
fn many_faults_are_counted_and_not_all_listed() {
    let error = from_proto(small_with(|graph| {
        graph.node.extend((0..20).map(|i| node("Neg", "", &[&format!("lost{i}")], &[&format!("z{i}")])));
    }));
    let message = error.unwrap_err().to_string();
    assert!(message.contains("lost7") && !message.contains("lost8"));
    assert!(message.ends_with("; and 12 more"), "{message}");
}

#[test]
fn a_value_has_one_definition() {
    let by_nodes = small_with(|graph| graph.node[0].output[0] = "y".to_string());
    assert_eq!(redefined(by_nodes), "y");
    let of_an_input = small_with(|graph| graph.node[1].output[0] = "x".to_string());
    assert_eq!(redefined(of_an_input), "x");
    let of_a_constant = small_with(|graph| graph.node[1].output[0] = "w".to_string());
    assert_eq!(redefined(of_a_constant), "w");
    let inputs = small_with(|graph| graph.input.push(info("x", DataType::Float, "?")));
    assert_eq!(redefined(inputs), "x");
    let constants = small_with(|graph| graph.initializer.push(floats("w", &[1], &[0.0])));
    assert_eq!(redefined(constants), "w");
}

#[test]
fn a_linear_layer_has_the_weight_that_it_declares() {
    let linear = Linear {
        layer: "layer".to_string(),
        k: 32,
        n: 16,
        layout: Layout::OutputInput,
        alpha: 1.0,
        beta: 1.0,
        dtype: DataType::Float,
        origin: Vec::new(),
    };
    assert_eq!(
        product_as(Op::Linear(linear.clone()), &["x", "w"], Vec::new()),
        [
            "node zqc.linear \"product\": its weight is Some([32, 16]), not the constant [16, 32] that it declares"
        ]
    );
    assert_eq!(
        product_as(Op::Linear(linear), &["w", "x"], Vec::new()),
        ["node zqc.linear \"product\": its weight is None, not the constant [16, 32] that it declares"]
    );
}

#[test]
fn a_quantized_layer_has_the_operands_that_it_declares() {
    let linear = |group_size| {
        Op::QuantizedLinear(QuantizedLinear {
            layer: "layer".to_string(),
            k: 32,
            n: 16,
            format: Format::E2M1,
            group_size,
            ladder: None,
            rank: 0,
            beta: 1.0,
            dtype: DataType::Float,
        })
    };
    let codes = Tensor::new(DataType::Uint8, &[16, 16], vec![0; 256]).unwrap();
    let scales = Tensor::from_f32(&[16, 4], vec![1.0; 64]).unwrap();
    let constants = || vec![("codes".to_string(), codes.clone()), ("scales".to_string(), scales.clone())];
    let operands = ["x", "codes", "scales"];
    let other_groups = product_as(linear(16), &operands, constants());
    assert!(other_groups.len() == 1 && other_groups[0].contains("its scales are"), "{other_groups:?}");
    let swapped = product_as(linear(8), &["x", "scales", "codes"], constants());
    assert!(swapped[0].contains("its codes are") && swapped[1].contains("its scales are"), "{swapped:?}");
    let no_group = product_as(linear(0), &operands, constants());
    assert_eq!(no_group, ["node zqc.quantized_linear \"product\": its group size is 0"]);
    let Op::QuantizedLinear(table) = linear(8) else { unreachable!() };
    let table = Op::QuantizedGather(QuantizedLinear { rank: 1, ..table });
    let branch = product_as(table, &operands, constants());
    assert!(branch[0].contains("it has a low-rank branch or a bias, which no table has"), "{branch:?}");
}

#[test]
fn an_empty_graph_has_no_fault() {
    assert_eq!(verify(&Model::default()), Ok(()));
    assert_eq!(Graph::default().order(), Ok(Vec::new()));
}
