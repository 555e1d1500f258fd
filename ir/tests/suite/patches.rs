//! What a patch does to a graph.

use zqc_ir::onnx::proto::{FunctionProto, ModelProto};
use zqc_ir::onnx::{from_proto, to_proto};
use zqc_ir::patch::PatchError;
use zqc_ir::tensor::DataType;
use zqc_ir::verify::verify;
use zqc_ir::{Change, Model, NewNode, NodeId, Op, Patch, Source, Tensor};

use crate::protos::{import, info, node, small, string};

fn small_model() -> Model {
    from_proto(small()).unwrap()
}

fn producer(model: &Model, value: &str) -> NodeId {
    model.graph.producer(model.graph.find(value).unwrap()).unwrap()
}

fn new_node(op_type: &str, input: &str, output: &str) -> NewNode {
    NewNode {
        name: output.to_string(),
        op: Op::standard(op_type, Vec::new()),
        inputs: vec![string(input)],
        outputs: vec![string(output)],
        regions: Vec::new(),
        source_index: None,
    }
}

fn apply(model: &mut Model, change: Change) -> Result<(), PatchError> {
    Patch { changes: vec![change], ..Patch::default() }.apply(model)
}

/// Operator types in the order in which they are written.
fn kinds(model: &Model) -> Vec<&str> {
    model.graph.order().unwrap().into_iter().map(|id| model.graph.node(id).op.kind()).collect()
}

#[test]
fn a_node_between_two_others_is_written_before_its_reader() {
    let mut model = small_model();
    let relu = producer(&model, "y");
    let change = Change {
        add: vec![new_node("Neg", "xw", "negative")],
        rewire: vec![(relu, 0, "negative".to_string())],
        ..Change::new("test")
    };
    apply(&mut model, change).unwrap();
    verify(&model).unwrap();
    assert_eq!(kinds(&model), ["MatMul", "Neg", "Relu"]);
    let neg = producer(&model, "negative");
    assert_eq!(model.graph.predecessors(relu).collect::<Vec<_>>(), [neg]);
    assert_eq!(model.graph.successors(neg).collect::<Vec<_>>(), [relu]);
}

#[test]
fn readers_stay_connected_when_another_node_defines_their_value() {
    let mut model = small_model();
    let product = producer(&model, "xw");
    let change =
        Change { remove: vec![product], add: vec![new_node("Own", "x", "xw")], ..Change::new("test") };
    apply(&mut model, change).unwrap();
    verify(&model).unwrap();
    assert_eq!(kinds(&model), ["Own", "Relu"]);
    assert_eq!(model.graph.predecessors(producer(&model, "y")).count(), 1);
}

#[test]
fn release_takes_what_only_the_value_was_computed_from() {
    let mut model = small_model();
    let (relu, product) = (producer(&model, "y"), producer(&model, "xw"));
    let released = vec![model.graph.find("xw").unwrap()];
    let change = Change {
        add: vec![new_node("Own", "x", "own")],
        rewire: vec![(relu, 0, "own".to_string())],
        remove_if_unused: released.clone(),
        ..Change::new("test")
    };
    apply(&mut model, change).unwrap();
    verify(&model).unwrap();
    assert_eq!(kinds(&model), ["Own", "Relu"]);
    assert!(model.graph.nodes().all(|(id, _)| id != product));
    assert_eq!(model.graph.initializers().count(), 0, "the weight has no reader left");
    assert_eq!(model.graph.source(model.graph.find("x").unwrap()), Source::Input, "inputs are the caller's");
    assert!(model.graph.is_gone(released[0]));
    assert_eq!(model.graph.fresh_name("xw"), "xw", "the name is free again");
}

#[test]
fn release_leaves_what_is_still_read() {
    let mut model = small_model();
    let change = Change {
        remove_if_unused: ["xw", "w", "y"].map(|name| model.graph.find(name).unwrap()).to_vec(),
        ..Change::new("test")
    };
    apply(&mut model, change).unwrap();
    assert_eq!(to_proto(&model).unwrap(), small());
}

#[test]
fn what_the_file_says_of_values_goes_with_them() {
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    graph.value_info = ["xw", "kept"].map(|name| info(name, DataType::Float, "batch 16")).to_vec();
    graph.node.push(node("Neg", "", &["x"], &["kept"]));
    let mut model = from_proto(proto).unwrap();
    let change = Change {
        add: vec![new_node("Own", "x", "own")],
        rewire: vec![(producer(&model, "y"), 0, "own".to_string())],
        remove_if_unused: vec![model.graph.find("xw").unwrap()],
        ..Change::new("test")
    };
    apply(&mut model, change).unwrap();
    let written = to_proto(&model).unwrap().graph.unwrap();
    assert_eq!(written.value_info, [info("kept", DataType::Float, "batch 16")]);
    assert!(model.graph.value(model.graph.find("xw").unwrap()).info.is_none());
}

#[test]
fn constants_are_added_and_replaced_under_their_names() {
    let mut model = small_model();
    let tensor = |value| Tensor::from_f32(&[1], vec![value]).unwrap();
    let change = Change {
        initializers: vec![("added".to_string(), tensor(1.0))],
        replace: vec![(model.graph.find("w").unwrap(), tensor(2.0))],
        ..Change::new("test")
    };
    apply(&mut model, change).unwrap();
    for (name, value) in [("added", 1.0), ("w", 2.0)] {
        let id = model.graph.find(name).unwrap();
        assert_eq!(model.graph.constant(id).unwrap().to_f32().unwrap(), [value], "{name}");
    }
}

#[test]
fn fresh_names_avoid_values_and_the_insides_of_bodies() {
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    let mut body = graph.clone();
    body.node[0].output[0] = "inner".to_string();
    body.node[1].input[0] = "inner".to_string();
    let mut own = node("Own", "", &[], &["z"]);
    own.attribute
        .push(zqc_ir::onnx::proto::AttributeProto { g: Some(body), ..zqc_ir::op::attribute::int("body", 0) });
    graph.node.push(own);
    let model = from_proto(proto).unwrap();
    assert_eq!(model.graph.fresh_name("new"), "new");
    assert_eq!(model.graph.fresh_name("w"), "w_1");
    assert_eq!(model.graph.fresh_name("inner"), "inner_1");
}

#[test]
fn patches_that_do_not_fit_are_refused() {
    let refusal = |change: &dyn Fn(&mut Change, &Model)| {
        let mut model = small_model();
        let mut wrong = Change::new("a wrong change");
        change(&mut wrong, &model);
        apply(&mut model, wrong).unwrap_err()
    };
    let why = "a wrong change".to_string();
    let no_node = PatchError::NoSuchNode { why: why.clone() };
    assert_eq!(refusal(&|change, _| change.remove.push(NodeId::new(99))), no_node);
    assert_eq!(refusal(&|change, _| change.rewire.push((NodeId::new(99), 0, "x".to_string()))), no_node);
    assert_eq!(
        refusal(&|change, model| change.rewire.push((producer(model, "y"), 1, "x".to_string()))),
        no_node,
        "a port that the node does not have"
    );
    assert_eq!(
        refusal(&|change, model| {
            let tensor = Tensor::from_f32(&[], vec![0.0]).unwrap();
            change.replace.push((model.graph.find("x").unwrap(), tensor));
        }),
        PatchError::NoSuchConstant { why: why.clone() }
    );
    let redefined = |value: &str| PatchError::Redefined { why: why.clone(), value: value.to_string() };
    assert_eq!(refusal(&|change, _| change.add.push(new_node("Neg", "x", "y"))), redefined("y"));
    let constant = ("w".to_string(), Tensor::from_f32(&[], vec![0.0]).unwrap());
    assert_eq!(refusal(&|change, _| change.initializers.push(constant.clone())), redefined("w"));
}

#[test]
fn the_header_follows_the_patch() {
    let function = |domain: &str, doc: &str| FunctionProto {
        domain: string(domain),
        name: string("F"),
        doc_string: string(doc),
        ..Default::default()
    };
    let mut proto = small();
    proto.functions = vec![function("old", ""), function("own", "first")];
    proto.opset_import.extend([import(Some("old"), 1), import(Some("own"), 1)]);
    let mut model = from_proto(proto).unwrap();
    assert!(Patch::default().is_empty());
    let patch = Patch {
        forget: vec!["old".to_string()],
        functions: vec![function("own", "second"), function("new", "")],
        opsets: vec![("ai.onnx".to_string(), 21), ("new".to_string(), 2)],
        ir_version: Some(9),
        ..Patch::default()
    };
    assert!(!patch.is_empty());
    patch.apply(&mut model).unwrap();
    assert_eq!(model.header.functions, [function("own", "second"), function("new", "")]);
    let imports = [import(None, 21), import(Some("own"), 1), import(Some("new"), 2)];
    assert_eq!(model.header.opset_import, imports);
    assert_eq!(model.header.ir_version(), 10, "a patch never lowers the version");
}

#[test]
fn a_model_that_forgets_its_only_import_has_the_first_opset() {
    let mut model = from_proto(ModelProto { opset_import: vec![import(Some("old"), 1)], ..small() }).unwrap();
    Patch { forget: vec!["old".to_string()], ..Patch::default() }.apply(&mut model).unwrap();
    assert_eq!(model.header.opset_import, [import(Some(""), 1)]);
    from_proto(to_proto(&model).unwrap()).unwrap();
}

#[test]
fn the_name_of_a_constant_that_went_is_free_in_the_same_patch() {
    let mut model = small_model();
    let (relu, weight) = (producer(&model, "y"), model.graph.find("w").unwrap());
    let product = model.graph.find("xw").unwrap();
    let gone = Change {
        add: vec![new_node("Own", "x", "own")],
        rewire: vec![(relu, 0, "own".to_string())],
        remove_if_unused: vec![product],
        ..Change::new("gone")
    };
    let again = Change {
        add: vec![new_node("Own", "x", "w")],
        rewire: vec![(relu, 0, "w".to_string())],
        ..Change::new("again")
    };
    Patch { changes: vec![gone, again], ..Patch::default() }.apply(&mut model).unwrap();
    verify(&model).unwrap();
    assert_eq!(model.graph.initializers().count(), 0);
    assert!(model.graph.constant(weight).is_none() && model.graph.producer(weight).is_some());
}

#[test]
fn a_name_that_another_node_has_gets_a_number() {
    let mut model = small_model();
    let old: Vec<String> = model.graph.nodes().map(|(_, node)| node.name.clone()).collect();
    let taken = old.iter().find(|name| !name.is_empty()).unwrap();
    let named =
        |name: &str, output: &str| NewNode { name: name.to_string(), ..new_node("Neg", "xw", output) };
    let change = Change {
        add: vec![named(taken, "a"), named("", "b"), named("", "c"), named(taken, "d"), named("new", "e")],
        ..Change::new("test")
    };
    apply(&mut model, change).unwrap();
    let name = |value: &str| model.graph.node(producer(&model, value)).name.clone();
    assert_eq!(
        ["a", "b", "c", "d", "e"].map(name),
        [format!("{taken}_1"), String::new(), String::new(), format!("{taken}_2"), "new".to_string()]
    );
}

#[test]
fn a_node_that_takes_the_place_of_another_keeps_its_name() {
    let mut model = small_model();
    let id = producer(&model, "y");
    let node = NewNode { name: "kept".to_string(), ..NewNode::restore(&model.graph, model.graph.node(id)) };
    apply(&mut model, Change { remove: vec![id], add: vec![node], ..Change::new("test") }).unwrap();
    let id = producer(&model, "y");
    let node = NewNode::restore(&model.graph, model.graph.node(id));
    apply(&mut model, Change { remove: vec![id], add: vec![node], ..Change::new("test") }).unwrap();
    assert_eq!(model.graph.node(producer(&model, "y")).name, "kept");
}

#[test]
fn a_value_that_nothing_defines_is_refused_and_the_model_stays_as_it_was() {
    let mut model = small_model();
    let good = Change { add: vec![new_node("Neg", "x", "negative")], ..Change::new("good") };
    let misspelt = Change { add: vec![new_node("Neg", "negtaive", "twice")], ..Change::new("misspelt") };
    let refused = Patch { changes: vec![good, misspelt], ir_version: Some(99), ..Patch::default() };
    let undefined = PatchError::Undefined { why: "misspelt".to_string(), value: "negtaive".to_string() };
    assert_eq!(refused.apply(&mut model), Err(undefined));
    assert_eq!(to_proto(&model).unwrap(), small());
    assert!(model.graph.find("negative").is_none());
}

#[test]
fn a_later_change_may_define_what_an_earlier_one_reads() {
    let mut model = small_model();
    let reads = Change { add: vec![new_node("Neg", "late", "twice")], ..Change::new("reads") };
    let defines = Change { add: vec![new_node("Neg", "x", "late")], ..Change::new("defines") };
    Patch { changes: vec![reads, defines], ..Patch::default() }.apply(&mut model).unwrap();
    verify(&model).unwrap();
}

#[test]
fn a_patch_that_is_cut_off_takes_nothing_that_the_rest_needs() {
    let changes = ["first", "second"].map(Change::new).into_iter().collect();
    let mut patch = Patch { changes, forget: vec!["own".to_string()], ..Patch::default() };
    patch.truncate(2);
    assert_eq!((patch.changes.len(), patch.forget.len()), (2, 1));
    patch.truncate(1);
    assert_eq!((patch.changes.len(), patch.forget.len()), (1, 0));
}

#[test]
fn a_value_of_another_type_is_refused() {
    let refusal = |change: &dyn Fn(&mut Change, &Model)| {
        let mut model = small_model();
        let mut wrong = Change::new("a wrong change");
        change(&mut wrong, &model);
        let refused = apply(&mut model, wrong).unwrap_err().to_string();
        assert_eq!(to_proto(&model).unwrap(), small());
        refused
    };
    assert_eq!(
        refusal(&|change, model| {
            change.remove.push(producer(model, "xw"));
            change.add.push(new_node("Neg", "x", "xw"));
        }),
        "change \"a wrong change\" replaces \"xw\" of type f32[batch, 16] by a value of type f32[batch, 32]"
    );
    assert_eq!(
        refusal(&|change, model| change.rewire.push((producer(model, "y"), 0, "x".to_string()))),
        "change \"a wrong change\" replaces \"x\" of type f32[batch, 16] by a value of type f32[batch, 32]"
    );
}

#[test]
fn a_patch_adds_inputs_and_gives_the_graph_other_results() {
    let mut model = small_model();
    let patch = Patch {
        inputs: vec![info("more", DataType::Float, "2 3")],
        changes: vec![Change { add: vec![new_node("Neg", "more", "less")], ..Change::new("test") }],
        outputs: Some(vec!["less".to_string(), "xw".to_string()]),
        ..Patch::default()
    };
    assert!(!patch.is_empty());
    patch.apply(&mut model).unwrap();
    verify(&model).unwrap();
    assert_eq!(kinds(&model), ["MatMul", "Neg"], "what only the old result was computed from is gone");
    let written = to_proto(&model).unwrap();
    let read = from_proto(written.clone()).unwrap();
    let graph = written.graph.unwrap();
    let names = |infos: &[zqc_ir::onnx::proto::ValueInfoProto]| -> Vec<String> {
        infos.iter().map(|info| info.name().to_string()).collect()
    };
    assert_eq!(names(&graph.output), ["less", "xw"]);
    assert_eq!(names(&graph.input), ["x", "more"]);
    let less = read.graph.find("less").unwrap();
    assert_eq!(read.graph.ty(less).to_string(), "f32[2, 3]");

    let outputs = Some(vec!["nowhere".to_string()]);
    let error = Patch { outputs, ..Patch::default() }.apply(&mut model).unwrap_err();
    assert_eq!(error, PatchError::NoSuchResult { value: "nowhere".to_string() });
    let inputs = vec![info("x", DataType::Float, "1")];
    let error = Patch { inputs, ..Patch::default() }.apply(&mut model).unwrap_err();
    assert_eq!(error, PatchError::InputRedefined { value: "x".to_string() });
}
