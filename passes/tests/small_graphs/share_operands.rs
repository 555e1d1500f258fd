use zqc_ir::onnx::proto::{AttributeProto, GraphProto, NodeProto, attribute_proto::AttributeType};
use zqc_ir::tensor::DataType;
use zqc_passes::ShareOperands;

use crate::builder::{Builder, info};
use crate::{assert_snapshot, run};

/// A call that reads `codes`, and an `If` whose branch has one that reads `body_codes`; `other` is read by no call.
fn calls(body_codes: &[i64]) -> Builder {
    let call = NodeProto {
        op_type: Some("W4A8Linear".to_string()),
        domain: Some("ai.zqc".to_string()),
        input: ["x", "body_codes"].map(str::to_string).to_vec(),
        output: vec!["branch_y".to_string()],
        ..Default::default()
    };
    let branch = AttributeProto {
        name: Some("then_branch".to_string()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(GraphProto {
            name: Some("branch".to_string()),
            node: vec![call],
            output: vec![info("branch_y", DataType::Float, "rows 4")],
            ..Default::default()
        }),
        ..Default::default()
    };
    Builder::new()
        .input("x", DataType::Float, "rows 4")
        .input("condition", DataType::Bool, "")
        .constant("codes", DataType::Uint8, &[4, 2])
        .constant("other", DataType::Uint8, &[4, 2])
        .constant("body_codes", DataType::Uint8, body_codes)
        .node("W4A8Linear", &["x", "codes"], "y")
        .of("ai.zqc")
        .node("Cast", &["other"], "z")
        .with(zqc_ir::op::attribute::int("to", DataType::Float as i64))
        .node("If", &["condition"], "v")
        .with(branch)
        .output("y")
        .output("z")
        .output("v")
}

#[test]
fn what_a_body_reads_is_read_by_the_graph_too() {
    assert_snapshot("share_operands", "same", &run(&[&ShareOperands], &mut calls(&[4, 2]).build()));
}

#[test]
fn what_differs_stays_apart() {
    let before = run(&[], &mut calls(&[2, 4]).build());
    assert_eq!(run(&[&ShareOperands], &mut calls(&[2, 4]).build()), before);
}
