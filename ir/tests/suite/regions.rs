//! Subgraphs of control flow as regions.

use zqc_formats::ActivationFormat;
use zqc_ir::graph::Port;
use zqc_ir::onnx::{from_proto, to_proto};
use zqc_ir::op::QuantizeActivation;
use zqc_ir::patch::PatchError;
use zqc_ir::tensor::DataType;
use zqc_ir::verify::verify;
use zqc_ir::{Change, Model, NewNode, NodeId, Op, Patch, RegionId, Source, Tensor, text};

/// Branches in a branch: `w` is read two graphs further in, where nothing else says what it is.
const NESTED: &str = r#"
model ir_version=10 imports(20)
graph main (%x: f32[rows, 2], %flag: bool[]) -> (%y: f32[rows, 2]) {
  const %w: f32[2, 2] = dense<1.0, 2.0, 3.0, 4.0>
  const %unread: f32[1] = splat<1.0>
  %h: f32[rows, 2] = Relu(%x)
  %y = If(%flag) {then_branch = graph then () -> (%a) {
    %a = If(%flag) {then_branch = graph inner () -> (%product) {
      %product = MatMul(%h, %w)
    }, else_branch = graph other () -> (%copy) {
      %copy = Identity(%h)
    }}
  }, else_branch = graph else () -> (%b) {
    const %bias: f32[2] = splat<0.5>
    %b = Add(%h, %bias)
  }}
}
"#;

fn nested() -> Model {
    text::parse(NESTED).unwrap()
}

/// Region `index` of the only node of `model` that has some.
fn only(model: &Model, index: usize) -> RegionId {
    model.graph.regions().map(|(id, _)| id).find(|id| id.index == index).unwrap()
}

fn in_text(model: &Model) -> String {
    text::exact(model).unwrap()
}

#[test]
fn a_region_knows_what_it_reads_from_around_it() {
    let model = nested();
    let around = model.region(only(&model, 0)).unwrap();
    let inner = around.region(only(&around, 0)).unwrap().graph;
    let find = |name: &str| inner.find(name).unwrap();
    assert_eq!([find("h"), find("w")].map(|value| inner.source(value)), [Source::Capture; 2]);
    assert_eq!(inner.given().collect::<Vec<_>>(), [find("h")], "a constant is not given");
    assert_eq!(inner.constant(find("w")).unwrap().to_f32().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(inner.ty(find("h")).to_string(), "f32[rows, 2]");
    assert_eq!(inner.ty(find("product")).to_string(), "f32[rows, 2]", "inferred from captures");
    assert!(inner.initializers().next().is_none(), "it has no constants of its own");

    let graph = &model.graph;
    let holder = only(&model, 0).node;
    let names =
        |ids: &[zqc_ir::ValueId]| ids.iter().map(|&id| graph.value(id).name.as_str()).collect::<Vec<_>>();
    assert_eq!(names(graph.node(holder).captures()), ["flag", "w", "h"], "those of regions in regions too");
    let w = graph.uses(graph.find("w").unwrap());
    assert_eq!(w.iter().map(|place| (place.node, place.port)).collect::<Vec<_>>(), [(holder, Port::Capture)]);
    let kinds: Vec<&str> = graph.nodes_within().map(|node| node.op.kind()).collect();
    assert_eq!(kinds, ["Relu", "If", "If", "MatMul", "Identity", "Add"]);
}

#[test]
fn a_region_follows_what_changes_around_it() {
    let mut model = nested();
    let w = model.graph.find("w").unwrap();
    let tensor = Tensor::from_f32(&[2, 2], vec![5.0; 4]).unwrap();
    let change = Change { replace: vec![(w, tensor)], ..Change::new("other weights") };
    Patch { changes: vec![change], ..Patch::default() }.apply(&mut model).unwrap();
    let around = model.region(only(&model, 0)).unwrap();
    let inner = around.region(only(&around, 0)).unwrap().graph;
    assert_eq!(inner.constant(inner.find("w").unwrap()).unwrap().to_f32().unwrap(), [5.0; 4]);
}

#[test]
fn what_a_region_adds_goes_around_it_and_what_it_no_longer_reads_goes() {
    let mut model = nested();
    let outer = only(&model, 0);
    let mut around = model.region(outer).unwrap();
    let id = only(&around, 0);
    let mut inner = around.region(id).unwrap();
    assert_eq!(inner.graph.fresh_name("x"), "x_1", "a name of the graph around the graph around");
    assert_eq!(inner.graph.fresh_name("bias"), "bias_1", "a name in a region beside it");
    let (product, node) = inner.graph.nodes().next().unwrap();
    let mut other = NewNode::restore(&inner.graph, node);
    other.inputs[1] = Some("v".to_string());
    let change = Change {
        initializers: vec![("v".to_string(), Tensor::from_f32(&[2, 2], vec![0.0; 4]).unwrap())],
        remove: vec![product],
        add: vec![other],
        remove_if_unused: vec![inner.graph.find("w").unwrap()],
        ..Change::new("other weights")
    };
    Patch { changes: vec![change], ..Patch::default() }.apply(&mut inner).unwrap();
    Patch::replace_region(&around, id, inner, "the product changed").apply(&mut around).unwrap();
    Patch::replace_region(&model, outer, around, "a product in it changed").apply(&mut model).unwrap();
    verify(&model).unwrap();
    let names: Vec<&str> =
        model.graph.initializers().map(|(id, _)| model.graph.value(id).name.as_str()).collect();
    assert_eq!(names, ["unread", "v"]);
    let text = in_text(&model);
    assert!(text.contains("%product = MatMul(%h, %v)"), "{text}");
    assert_eq!(text.matches("const %v").count(), 1, "{text}");
    assert_eq!(in_text(&text::parse(&text).unwrap()), text);
    let written = from_proto(to_proto(&model).unwrap()).unwrap();
    assert_eq!(in_text(&written), text, "ONNX says the same");
}

#[test]
fn operators_of_ours_may_stand_in_a_region() {
    let mut model = nested();
    let id = only(&model, 1);
    let mut region = model.region(id).unwrap();
    let (add, node) = region.graph.nodes().next().unwrap();
    let mut reader = NewNode::restore(&region.graph, node);
    reader.inputs[0] = Some("h_quantized".to_string());
    let quantize = NewNode {
        op: Op::QuantizeActivation(QuantizeActivation { format: ActivationFormat::E4M3 }),
        name: "quantize".to_string(),
        inputs: vec![Some("h".to_string())],
        outputs: vec![Some("h_quantized".to_string())],
        regions: Vec::new(),
        source_index: None,
    };
    let change = Change { remove: vec![add], add: vec![quantize, reader], ..Change::new("quantized") };
    Patch { changes: vec![change], ..Patch::default() }.apply(&mut region).unwrap();
    Patch::replace_region(&model, id, region, "quantized").apply(&mut model).unwrap();
    let text = in_text(&model);
    assert!(text.contains("%h_quantized = zqc.quantize_activation(%h)"), "{text}");
    let read = text::parse(&text).unwrap();
    assert_eq!(in_text(&read), text);
    let kinds =
        |model: &Model| model.graph.nodes_within().map(|node| node.op.kind().to_string()).collect::<Vec<_>>();
    assert_eq!(kinds(&read), ["Relu", "If", "If", "MatMul", "Identity", "zqc.quantize_activation", "Add"]);
    let error = to_proto(&model).unwrap_err().to_string();
    assert!(error.contains("\"quantize\" is not lowered"), "{error}");
}

#[test]
fn a_region_that_is_not_there_and_one_that_reads_what_nothing_defines_are_refused() {
    let mut model = nested();
    let id = only(&model, 1);
    let region = model.region(id).unwrap();
    for lost in [RegionId { index: 2, ..id }, RegionId { node: NodeId::new(99), ..id }] {
        let patch = Patch::replace_region(&model, lost, region.clone(), "a change");
        let error = patch.apply(&mut model).unwrap_err();
        assert_eq!(error, PatchError::NoSuchNode { why: "a change".to_string() });
    }

    let broken = NESTED.replace("Add(%h, %bias)", "Add(%lost, %bias)");
    let error = text::parse(&broken).unwrap_err().to_string();
    assert!(error.contains("it reads \"lost\", which nothing defines"), "{error}");
    let cyclic = NESTED.replace("%b = Add(%h, %bias)", "%b = Add(%c, %bias)\n    %c = Neg(%b)");
    let error = text::parse(&cyclic).unwrap_err().to_string();
    assert!(error.contains("in a cycle") && error.contains("in a subgraph of If"), "{error}");
    let twice = NESTED.replace("%copy = Identity(%h)", "%copy = Identity(%h)\n      %copy = Neg(%h)");
    let error = text::parse(&twice).unwrap_err().to_string();
    assert!(error.contains("\"copy\" is defined twice"), "{error}");
}

/// Below IR version 4 a region lists its constants among its inputs, as a graph does.
#[test]
fn constants_that_a_region_lists_as_inputs_are_constants_in_old_versions() {
    let listed = NESTED
        .replace("ir_version=10", "ir_version=3")
        .replace("graph else ()", "graph else (%bias: f32[2])");
    let listed = listed
        .replace("(%x: f32[rows, 2], %flag", "(%w: f32[2, 2], %unread: f32[1], %x: f32[rows, 2], %flag");
    let mut model = text::parse(&listed).unwrap();
    let region = |model: &Model| model.region(only(model, 1)).unwrap().graph;
    let bias = |model: &Model| {
        region(model).constant(region(model).find("bias").unwrap()).map(|t| t.dtype().unwrap())
    };
    assert_eq!(bias(&model), Some(DataType::Float));
    Patch { ir_version: Some(10), ..Patch::default() }.apply(&mut model).unwrap();
    assert_eq!(bias(&model), Some(DataType::Float), "and are no defaults of inputs in new ones");
    assert!(region(&model).inputs().is_empty());
}
