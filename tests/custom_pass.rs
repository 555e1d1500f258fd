//! The pass of `examples/custom_pass.rs` on every kind of layer that it may put back.

#[path = "../examples/custom_pass.rs"]
#[allow(dead_code)] // its `main`
mod custom_pass;

use custom_pass::KeepOutliers;
use zqc::ir::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};
use zqc::ir::onnx::{from_proto, to_proto};
use zqc::ir::op::attribute::int;
use zqc::ir::tensor::DataType;
use zqc::passes::{Silent, run};
use zqc::{Options, Phase, Pipeline};

fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_string()),
        name: Some(format!("{output}/{op_type}")),
        input: inputs.iter().map(|input| input.to_string()).collect(),
        output: vec![output.to_string()],
        ..Default::default()
    }
}

/// Small numbers and a large one.
fn outlier(name: &str, dims: &[i64]) -> TensorProto {
    let mut values = vec![0.125; dims.iter().product::<i64>() as usize];
    values[1] = 64.0;
    TensorProto {
        name: Some(name.to_string()),
        dims: dims.to_vec(),
        data_type: Some(DataType::Float as i32),
        float_data: values,
        ..Default::default()
    }
}

#[test]
fn layers_that_are_put_back_are_what_they_were() {
    let info = |name: &str| ValueInfoProto { name: Some(name.to_string()), ..Default::default() };
    let mut gemm = node("Gemm", &["t", "v", "b"], "g");
    gemm.attribute = vec![int("transA", 1), int("transB", 1)];
    let graph = GraphProto {
        name: Some("all kinds".to_string()),
        input: vec![info("x"), info("t")],
        output: ["y", "g", "z"].map(info).to_vec(),
        initializer: vec![
            outlier("w", &[32, 64, 1, 1]),
            outlier("b", &[32]),
            outlier("v", &[32, 64]),
            outlier("u", &[64, 32]),
        ],
        node: vec![
            node("Conv", &["x", "w", "b"], "y"),
            gemm,
            node("MatMul", &["t", "u"], "p"),
            node("Add", &["p", "b"], "z"),
        ],
        ..Default::default()
    };
    let proto = ModelProto {
        ir_version: Some(10),
        opset_import: vec![OperatorSetIdProto { version: Some(20), ..Default::default() }],
        graph: Some(graph),
        ..Default::default()
    };
    let mut model = from_proto(proto).unwrap();
    let source = to_proto(&model).unwrap();
    let mut pipeline = Pipeline::for_options(&Options::default());
    pipeline.remove("select").unwrap();
    for pass in pipeline.passes(Phase::FindLayers) {
        run(pass, &mut model, &mut Silent).unwrap();
    }
    let layers = model.graph.nodes().filter(|(_, node)| node.op.kind() == "zqc.linear").count();
    assert_eq!(layers, 3, "{model}");
    run(&KeepOutliers { limit: 6.0 }, &mut model, &mut Silent).unwrap();
    assert_eq!(to_proto(&model).unwrap(), source);
}
