//! What a patch builder writes.

use zqc_ir::onnx::from_proto;
use zqc_ir::op::attribute::int;
use zqc_ir::tensor::DataType;
use zqc_ir::verify::verify;
use zqc_ir::{Model, NodeId, Op, Patch, PatchBuilder};

use crate::protos::small;

fn small_model() -> Model {
    from_proto(small()).unwrap()
}

fn producer(model: &Model, value: &str) -> NodeId {
    model.graph.producer(model.graph.find(value).unwrap()).unwrap()
}

/// The nodes of the model once the patch is applied.
fn nodes(mut model: Model, patch: Patch) -> Vec<String> {
    patch.apply(&mut model).unwrap();
    verify(&model).unwrap();
    let text = model.graph.to_string();
    text.lines()
        .filter(|line| line.contains(" = ") && !line.contains("const "))
        .map(|line| line.trim().to_string())
        .collect()
}

#[test]
fn the_last_node_takes_the_place_of_the_old_one() {
    let model = small_model();
    let (x, w) = (model.graph.find("x").unwrap(), model.graph.find("w").unwrap());
    let product = producer(&model, "xw");
    let mut patch = PatchBuilder::new(&model.graph);
    let mut change = patch.change_of(product, "negated twice");
    let negated = change.op("Neg", [x.into()]).output("negated");
    let multiplied = change.op("MatMul", [negated, w.into()]).output("product");
    let back = change.op("Neg", [multiplied.clone()]).output("back");
    change.op("Shape", [back.clone()]).with([int("start", 1)]).named("shape").output("shape");
    change.replace(product, &back);
    assert_eq!(
        nodes(small_model(), patch.finish()),
        [
            "%xw_negated = Neg(%x)",
            "%xw_product = MatMul(%xw_negated, %w)",
            "%xw = Neg(%xw_product) @product",
            "%y = Relu(%xw) @relu",
            "%xw_shape = Shape(%xw) {start = 1} @shape",
        ]
    );
}

#[test]
fn changes_share_integers_and_one_that_is_dropped_leaves_none_behind() {
    let model = small_model();
    let x = model.graph.find("x").unwrap();
    let mut patch = PatchBuilder::new(&model.graph);
    let mut dropped = patch.change("dropped", "a");
    dropped.integers(&[1], &[7]);
    dropped.scalar(DataType::Float, 0.5).unwrap();
    drop(dropped);
    for prefix in ["b", "c"] {
        let mut change = patch.change("kept", prefix);
        let shape = change.integers(&[1], &[7]);
        change.op("Reshape", [x.into(), shape]).output("flat");
        change.finish();
    }
    let patch = patch.finish();
    let constants: Vec<usize> = patch.changes.iter().map(|change| change.initializers.len()).collect();
    assert_eq!(constants, [1, 0]);
    let mut model = small_model();
    patch.apply(&mut model).unwrap();
    verify(&model).unwrap();
}

#[test]
fn a_node_has_optional_inputs_several_outputs_and_the_place_of_another() {
    let model = small_model();
    let (x, y) = (model.graph.find("xw").unwrap(), model.graph.find("y").unwrap());
    let relu = producer(&model, "y");
    let mut patch = PatchBuilder::new(&model.graph);
    let mut change = patch.change_of(relu, "split and clipped");
    let [low, high] = change.op("Split", [x.into()]).outputs(["low", "high"]);
    let clip = Op::standard("Clip", Vec::new());
    change.node(clip, [Some(high), None, Some(low)]).in_place_of(relu).defines([Some(y.into())]);
    change.remove(relu);
    change.remove_if_unused(model.graph.node(relu).reads());
    change.finish();
    assert_eq!(
        nodes(small_model(), patch.finish()),
        [
            "%xw = MatMul(%x, %w) @product",
            "%y_low, %y_high = Split(%xw)",
            "%y = Clip(%y_high, _, %y_low) @relu",
        ]
    );
}

#[test]
fn nodes_in_a_row_are_bypassed_in_any_order_and_one_that_yields_a_result_stays() {
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    graph.node[0].input[0] = "b".to_string();
    graph.node.insert(0, crate::protos::node("Identity", "first", &["x"], &["a"]));
    graph.node.insert(1, crate::protos::node("Identity", "second", &["a"], &["b"]));
    graph.node.push(crate::protos::node("Identity", "last", &["b"], &["z"]));
    graph.output.push(crate::protos::info("z", DataType::Float, "batch 32"));
    for reversed in [false, true] {
        let model = from_proto(proto.clone()).unwrap();
        let mut patch = PatchBuilder::new(&model.graph);
        let mut bypass = |y: &str| {
            let id = producer(&model, y);
            let x = model.graph.node(id).input(0).unwrap();
            patch.change_of(id, "a copy").bypass(id, x)
        };
        let order = if reversed { ["z", "b", "a"] } else { ["a", "b", "z"] };
        assert_eq!(order.map(&mut bypass), order.map(|y| y != "z"));
        assert_eq!(
            nodes(from_proto(proto.clone()).unwrap(), patch.finish()),
            ["%xw = MatMul(%x, %w) @product", "%y = Relu(%xw) @relu", "%z = Identity(%x) @last",]
        );
    }
}
