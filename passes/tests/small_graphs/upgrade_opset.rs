use zqc_ir::Model;
use zqc_ir::onnx::proto::attribute_proto::AttributeType;
use zqc_ir::onnx::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto};
use zqc_ir::op::attribute::{float, int, ints, string};
use zqc_ir::tensor::DataType::Float;
use zqc_passes::{Opset, PassError, Silent, UpgradeOpset};

use crate::builder::{Builder, written};
use crate::{assert_snapshot, run};

const TO_19: UpgradeOpset = UpgradeOpset { to: Opset::At(19) };
const TO_24: UpgradeOpset = UpgradeOpset { to: Opset::At(24) };

fn upgraded(builder: Builder) -> Model {
    let mut model = builder.build();
    run(&[&TO_19], &mut model);
    model
}

fn refused(builder: Builder, to: i64) -> String {
    match zqc_passes::run(&UpgradeOpset { to: Opset::At(to) }, &mut builder.build(), &mut Silent) {
        Err(error @ PassError::Unsupported { .. }) => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

fn input() -> Builder {
    Builder::new().input("x", Float, "2 3 4")
}

fn reductions(mut builder: Builder) -> Builder {
    let kinds = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"];
    for kind in kinds {
        builder = builder.node(&format!("Reduce{kind}"), &["x"], kind).with(ints("axes", &[-1])).output(kind);
    }
    builder.node("ReduceMean", &["x"], "all").output("all")
}

#[test]
fn what_changed_since_opset_11() {
    let builder = reductions(input().opset(11))
        .node("Dropout", &["x"], "dropout")
        .with(float("ratio", 0.25))
        .node("Unsqueeze", &["dropout"], "unsqueezed")
        .with(ints("axes", &[0]))
        .node("Squeeze", &["unsqueezed"], "squeezed")
        .with(ints("axes", &[0]))
        .node("ReduceSum", &["squeezed"], "sum")
        .with(ints("axes", &[1]))
        .node("Split", &["squeezed"], "left")
        .and_output("right")
        .with(int("axis", 2))
        .with(ints("split", &[1, 3]))
        .node("Split", &["sum"], "upper")
        .and_output("lower")
        .node("RoiAlign", &["x", "left", "right"], "aligned")
        .output("aligned")
        .output("upper");
    assert_snapshot("upgrade_opset", "from_11", &upgraded(builder).to_string());
}

#[test]
fn what_changed_since_opset_13() {
    let builder = reductions(input().opset(13))
        .constant("axes", zqc_ir::tensor::DataType::Int64, &[1])
        .node("ReduceSum", &["x", "axes"], "sum")
        .node("Softmax", &["sum"], "softmax")
        .node("Split", &["softmax"], "upper")
        .and_output("lower")
        .node("Split", &["softmax", "axes"], "sized")
        .output("lower")
        .output("sized");
    assert_snapshot("upgrade_opset", "from_13", &upgraded(builder).to_string());
}

#[test]
fn a_softmax_is_flattened_unless_its_axis_is_known_to_be_the_last() {
    let builder = input()
        .opset(12)
        .node("Softmax", &["x"], "default")
        .node("LogSoftmax", &["x"], "last")
        .with(int("axis", 2))
        .node("Softmax", &["last"], "negative")
        .with(int("axis", -1))
        .node("Own", &["negative"], "own")
        .node("Hardmax", &["own"], "unknown_rank")
        .with(int("axis", 2))
        .output("default")
        .output("unknown_rank");
    assert_snapshot("upgrade_opset", "softmax", &upgraded(builder).to_string());
}

#[test]
fn what_changed_since_opset_19() {
    let mut builder = input()
        .opset(19)
        .node("DFT", &["x"], "spectrum")
        .node("DFT", &["spectrum", "x"], "long_spectrum")
        .with(int("axis", 0))
        .with(int("inverse", 1))
        .node("AveragePool", &["x"], "averages")
        .with(int("ceil_mode", 0))
        .output("averages")
        .output("long_spectrum");
    for mode in ["bilinear", "bicubic", "nearest"] {
        builder = builder.node("GridSample", &["x", "x"], mode).with(string("mode", mode)).output(mode);
    }
    let mut model = builder.node("GridSample", &["x", "x"], "default").output("default").build();
    run(&[&TO_24], &mut model);
    assert_snapshot("upgrade_opset", "from_19", &model.to_string());
}

#[test]
fn bodies_of_control_flow_move_along() {
    let mean = |result: &str| NodeProto {
        op_type: Some("ReduceMean".to_string()),
        input: vec!["x".to_string()],
        output: vec![result.to_string()],
        attribute: vec![ints("axes", &[0])],
        ..Default::default()
    };
    let branch = |name: &str, node: Vec<NodeProto>| AttributeProto {
        name: Some(name.to_string()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(GraphProto { node, ..Default::default() }),
        ..Default::default()
    };
    let nested = NodeProto {
        op_type: Some("If".to_string()),
        input: vec!["c".to_string()],
        output: vec!["inner".to_string()],
        attribute: vec![branch("then_branch", vec![mean("b")])],
        ..Default::default()
    };
    let builder = input()
        .opset(17)
        .constant("c", zqc_ir::tensor::DataType::Bool, &[1])
        .node("If", &["c"], "y")
        .with(branch("then_branch", vec![mean("a")]))
        .with(branch("else_branch", vec![nested]))
        .output("y");
    let graph = written(&upgraded(builder)).graph.unwrap();
    let node = &graph.node[0];
    let bodies: Vec<&GraphProto> =
        node.bodies().chain(node.bodies().flat_map(|body| body.node[0].bodies())).collect();
    let text = |node: &NodeProto| format!("{}({})", node.op_type(), node.input.join(", "));
    let texts = bodies.iter().map(|body| body.node.iter().map(text).collect::<Vec<_>>().join("; "));
    let expected = ["Constant(); ReduceMean(x, a_axes)", "If(c)", "Constant(); ReduceMean(x, b_axes)"];
    assert_eq!(texts.collect::<Vec<_>>(), expected);
}

#[test]
fn functions_of_the_user_move_along() {
    let reference = AttributeProto { ref_attr_name: Some("over".to_string()), ..ints("axes", &[]) };
    let mean = NodeProto {
        op_type: Some("ReduceMean".to_string()),
        input: vec!["a".to_string()],
        output: vec!["b".to_string()],
        attribute: vec![reference],
        ..Default::default()
    };
    let axes = NodeProto {
        op_type: Some("Identity".to_string()),
        input: vec!["b".to_string()],
        output: vec!["b_axes".to_string()],
        ..Default::default()
    };
    let import = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.to_string()),
        version: Some(version),
    };
    let function = |name: &str, overload: &str, opset| FunctionProto {
        name: Some(name.to_string()),
        domain: Some("user".to_string()),
        overload: Some(overload.to_string()),
        input: vec!["a".to_string()],
        output: vec!["b_axes".to_string()],
        attribute: vec!["over".to_string()],
        node: vec![mean.clone(), axes.clone()],
        opset_import: vec![import("", opset)],
        ..Default::default()
    };
    let mut builder = input().opset(17).node("Neg", &["x"], "y").output("y");
    builder.proto.functions = vec![function("F", "", 17), function("F", "other", 18), function("G", "", 20)];
    let model = upgraded(builder);
    let opsets = model.header.functions.iter().map(|function| function.opset_import[0].version());
    assert_eq!(opsets.collect::<Vec<_>>(), [19, 19, 20]);
    assert_snapshot("upgrade_opset", "functions", &model.to_string());
}

#[test]
fn a_model_of_the_opset_or_a_later_one_stays_as_it_is() {
    for opset in [19, 24] {
        let mut model = reductions(input().opset(opset)).build();
        let before = written(&model);
        run(&[&TO_19], &mut model);
        assert_eq!(written(&model), before);
    }
}

#[test]
fn what_has_no_equal_in_the_new_opset_is_refused() {
    let training = input()
        .opset(13)
        .node("BatchNormalization", &["x", "x", "x", "x", "x"], "y")
        .and_output("mean")
        .named("norm")
        .output("y");
    let resize = input()
        .opset(11)
        .node("Resize", &["x", "x", "x"], "y")
        .with(string("coordinate_transformation_mode", "tf_half_pixel_for_nn"))
        .named("enlarge")
        .output("y");
    let groups = input()
        .opset(18)
        .node("GroupNormalization", &["x", "x", "x"], "y")
        .with(int("num_groups", 1))
        .named("norm")
        .output("y");
    let pool = |op_type| {
        let node = input().opset(19).node(op_type, &["x"], "y");
        node.with(int("ceil_mode", 1)).named("pool").output("y")
    };
    let messages = [
        refused(training, 19),
        refused(resize, 19),
        refused(groups, 23),
        refused(pool("AveragePool"), 23),
        refused(pool("MaxPool"), 24),
        refused(reductions(input().opset(10)), 19),
        refused(reductions(input().opset(-1)), 19),
        refused(reductions(input().opset(18)), 25),
    ];
    assert_snapshot("upgrade_opset", "refused", &messages.join("\n"));
}

/// The imports as domain and version.
fn imports(list: &[OperatorSetIdProto]) -> Vec<(&str, i64)> {
    list.iter().map(|import| (import.domain(), import.version())).collect()
}

#[test]
fn a_domain_that_is_imported_twice_is_imported_once() {
    let list = |list: &[(&str, i64)]| -> Vec<OperatorSetIdProto> {
        let import = |&(domain, version): &(&str, i64)| OperatorSetIdProto {
            domain: Some(domain.to_string()),
            version: Some(version),
        };
        list.iter().map(import).collect()
    };
    let cases = [
        (&[("", 17), ("", 17)][..], vec![("", 19)]),
        (&[("ai.onnx", 17), ("", 17)], vec![("", 19)]),
        (&[("", 11), ("user", 1), ("ai.onnx", 18), ("user", 1)], vec![("", 19), ("user", 1)]),
        (&[("", 17), ("", 21), ("user", 1)], vec![("", 21), ("user", 1)]),
        (&[("", 20), ("com.microsoft", 1), ("com.microsoft", 1)], vec![("", 20), ("com.microsoft", 1)]),
        (&[("ai.onnx", 18)], vec![("ai.onnx", 19)]),
    ];
    for (given, expected) in cases {
        let mut builder = input().node("Relu", &["x"], "y").output("y");
        builder.proto.opset_import = list(given);
        builder.proto.functions = vec![FunctionProto {
            domain: Some("user".to_string()),
            name: Some("F".to_string()),
            opset_import: list(given),
            ..Default::default()
        }];
        let model = upgraded(builder);
        assert_eq!(imports(&model.header.opset_import), expected, "{given:?}");
        assert_eq!(imports(&model.header.functions[0].opset_import), expected, "{given:?}");
    }
}

/// ONNX Runtime takes the last import: `Softmax` has meant something else since 13.
#[test]
fn the_last_import_says_what_a_node_means() {
    for (versions, changes) in [([12, 13], false), ([13, 12], true)] {
        let mut builder = input().node("Softmax", &["x"], "y").output("y");
        let import = |version| OperatorSetIdProto { domain: None, version: Some(version) };
        builder.proto.opset_import = versions.map(import).to_vec();
        let model = upgraded(builder);
        assert_eq!(model.graph.nodes().count() > 1, changes, "{versions:?}");
    }
}
