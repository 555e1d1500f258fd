use std::ops::ControlFlow;

use zqc_ir::onnx::from_proto;
use zqc_ir::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use zqc_ir::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use zqc_ir::op::{Layout, Linear, attribute};
use zqc_ir::tensor::DataType;
use zqc_ir::{Change, Model, NewNode, Op, Patch, RegionId, Tensor};

use super::Control;
use crate::array::Array;
use crate::backend::backend;
use crate::interpreter::{Interpreter, Live};
use crate::run_error::RunError;
use crate::sessions::LoadedRegions;

fn value(name: &str, dtype: DataType, dims: &[i64]) -> ValueInfoProto {
    let fixed = |&dim: &i64| Dimension { value: Some(dimension::Value::DimValue(dim)), ..Default::default() };
    let shape = TensorShapeProto { dim: dims.iter().map(fixed).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(dtype as i32), shape: Some(shape) };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value, ..Default::default() }),
        ..Default::default()
    }
}

fn floats(name: &str, dims: &[i64]) -> ValueInfoProto {
    value(name, DataType::Float, dims)
}

fn names(list: &str) -> Vec<String> {
    list.split_whitespace().map(|name| if name == "-" { String::new() } else { name.into() }).collect()
}

fn node(op_type: &str, inputs: &str, outputs: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.into()),
        input: names(inputs),
        output: names(outputs),
        ..Default::default()
    }
}

fn graph(nodes: Vec<NodeProto>, input: Vec<ValueInfoProto>, output: Vec<ValueInfoProto>) -> GraphProto {
    GraphProto { name: Some("graph".into()), node: nodes, input, output, ..Default::default() }
}

fn body(name: &str, body: GraphProto) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(5), g: Some(body), ..Default::default() }
}

fn control(
    op_type: &str,
    inputs: &str,
    outputs: &str,
    attributes: impl IntoIterator<Item = AttributeProto>,
) -> NodeProto {
    NodeProto { attribute: attributes.into_iter().collect(), ..node(op_type, inputs, outputs) }
}

fn tensor(name: &str, tensor: Tensor) -> TensorProto {
    tensor.to_proto(name)
}

fn model(graph: GraphProto) -> Model {
    let proto = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..Default::default()
    };
    from_proto(proto).expect("a valid model")
}

fn array(dims: &[usize], values: &[f32]) -> Array {
    Array::new(dims.to_vec(), values.to_vec()).unwrap()
}

/// Runs the first control flow of the model; its results in order, and how many iterations it took.
fn run_within(
    model: &Model,
    feeds: &[(&str, Array)],
    most_iterations: usize,
) -> Result<(Vec<Array>, usize), RunError> {
    let backend = backend("rten", Some(1)).unwrap();
    let graph = &model.graph;
    let control = |id| Control::with_most_iterations(model, id, backend.as_ref(), most_iterations);
    let mut controls = graph.nodes().map(|(id, _)| control(id));
    let control = controls.find_map(Result::transpose).expect("control flow")?;
    let live: Live = feeds.iter().map(|(name, array)| (graph.find(name).unwrap(), array.clone())).collect();
    let mut iterations = 0;
    let mut count = |_: usize, _: &zqc_ir::Graph, _: &Live| {
        iterations += 1;
        ControlFlow::Continue(())
    };
    let results = control.run(&live, &mut LoadedRegions::default(), &mut count)?.expect("never stopped");
    Ok((graph.outputs().iter().map(|output| results[output].clone()).collect(), iterations))
}

fn run(model: &Model, feeds: &[(&str, Array)]) -> Result<(Vec<Array>, usize), RunError> {
    run_within(model, feeds, 100)
}

/// `state' = 2 state + step`, which goes on while the sum of `state'` is below 50; it gives `state'` a second time.
fn doubling(inputs: &str) -> Model {
    let turn = graph(
        vec![
            node("Cast", "turn", "number"),
            node("Add", "state state", "double"),
            node("Add", "double step", "next"),
            node("ReduceSum", "next", "sum"),
            node("Less", "sum fifty", "goes_on"),
            node("Add", "next number", "seen"),
        ],
        vec![value("turn", DataType::Int64, &[]), value("going", DataType::Bool, &[]), floats("state", &[2])],
        vec![value("goes_on", DataType::Bool, &[]), floats("next", &[2]), floats("seen", &[2])],
    );
    let mut turn = turn;
    turn.node[0].attribute.push(attribute::int("to", DataType::Float as i64));
    turn.node[3].attribute.push(attribute::int("keepdims", 0));
    turn.initializer.push(tensor("fifty", Tensor::from_f32(&[], vec![50.0]).unwrap()));
    let around = graph(
        vec![control("Loop", inputs, "last all", [body("body", turn)])],
        vec![
            value("count", DataType::Int64, &[]),
            value("condition", DataType::Bool, &[]),
            floats("start", &[2]),
            floats("step", &[2]),
        ],
        vec![floats("last", &[2]), floats("all", &[-1, 2])],
    );
    model(around)
}

fn start() -> [(&'static str, Array); 2] {
    [("start", array(&[2], &[1.0, 2.0])), ("step", array(&[2], &[0.0, 1.0]))]
}

fn count(iterations: i64) -> (&'static str, Array) {
    ("count", Array::new(vec![], vec![iterations]).unwrap())
}

fn condition(holds: bool) -> (&'static str, Array) {
    ("condition", Array::new(vec![], vec![holds]).unwrap())
}

#[test]
fn a_loop_has_as_many_iterations_as_it_counts() {
    let [a, b] = start();
    let (results, iterations) = run(&doubling("count - start"), &[a, b, count(2)]).unwrap();
    assert_eq!(iterations, 2);
    assert_eq!(results[0], array(&[2], &[4.0, 11.0]));
    assert_eq!(results[1], array(&[2, 2], &[2.0, 5.0, 5.0, 12.0]));
}

#[test]
fn a_loop_goes_on_while_its_condition_holds() {
    let [a, b] = start();
    let (results, iterations) = run(&doubling("- condition start"), &[a, b, condition(true)]).unwrap();
    // Sums 7, 15, 31, 63.
    assert_eq!(iterations, 4);
    assert_eq!(results[0], array(&[2], &[16.0, 47.0]));
    assert_eq!(results[1].shape, [4, 2]);
}

#[test]
fn a_loop_without_iterations_gives_what_came_in_and_empty_stacks() {
    let [a, b] = start();
    for feed in [[count(0), condition(true)], [count(-3), condition(true)], [count(9), condition(false)]] {
        let [count, condition] = feed;
        let feeds = [a.clone(), b.clone(), count, condition];
        let (results, iterations) = run(&doubling("count condition start"), &feeds).unwrap();
        assert_eq!((iterations, &results[0]), (0, &a.1));
        assert_eq!(results[1], array(&[0, 2], &[]));
    }
}

#[test]
fn a_loop_that_goes_on_for_too_long_is_an_error() {
    let feeds = [("start", array(&[2], &[0.0, 0.0])), ("step", array(&[2], &[0.0, 0.0]))];
    let error = run(&doubling("- - start"), &feeds).unwrap_err().to_string();
    assert!(error.contains("it does not end within 100 iterations"), "{error}");
    let [a, b] = start();
    assert_eq!(run_within(&doubling("count - start"), &[a, b, count(3)], 3).unwrap().1, 3);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let [a, b] = start();
    let fraction = ("count", array(&[], &[1.5]));
    let error =
        |inputs: &str, feeds: &[(&str, Array)]| run(&doubling(inputs), feeds).unwrap_err().to_string();
    assert!(
        error("count - start", &[a.clone(), b.clone(), fraction])
            .contains("trip count is not a single integer")
    );
    assert!(
        error("count - start start", &[a.clone(), b.clone(), count(1)])
            .contains("its body has 3 inputs, 4 are given")
    );
    assert!(error("count -", &[a.clone(), b, count(1)]).contains("its body has 3 inputs, 2 are given"));
    assert!(error("count - start", &[a, count(1)]).contains("\"step\""));
}

/// The running sums of `x` along an axis, `y` being read in the other direction beside.
fn sums(attributes: Vec<AttributeProto>) -> Model {
    let turn = graph(
        vec![
            node("Add", "sum x_now", "plus"),
            node("Add", "plus y_now", "next"),
            node("Identity", "next", "seen"),
            node("Identity", "x_now", "back"),
        ],
        vec![floats("sum", &[2]), floats("x_now", &[2]), floats("y_now", &[2])],
        vec![floats("next", &[2]), floats("seen", &[2]), floats("back", &[2])],
    );
    let attributes = attributes.into_iter().chain([attribute::int("num_scan_inputs", 2), body("body", turn)]);
    model(graph(
        vec![control("Scan", "start x y", "last all xs", attributes)],
        vec![floats("start", &[2]), floats("x", &[-1, -1]), floats("y", &[-1, -1])],
        vec![floats("last", &[2]), floats("all", &[-1, -1]), floats("xs", &[-1, -1])],
    ))
}

#[test]
fn a_scan_reads_slices_and_stacks_results() {
    let feeds = [
        ("start", array(&[2], &[100.0, 200.0])),
        ("x", array(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ("y", array(&[3, 2], &[10.0, 0.0, 20.0, 0.0, 30.0, 0.0])),
    ];
    let (results, iterations) = run(&sums(vec![]), &feeds).unwrap();
    assert_eq!(iterations, 3);
    assert_eq!(results[0], array(&[2], &[169.0, 212.0]));
    assert_eq!(results[1], array(&[3, 2], &[111.0, 202.0, 134.0, 206.0, 169.0, 212.0]));
    assert_eq!(results[2], feeds[1].1);
}

#[test]
fn a_scan_has_axes_and_directions() {
    let model = sums(vec![
        attribute::ints("scan_input_axes", &[1, -1]),
        attribute::ints("scan_input_directions", &[0, 1]),
        attribute::ints("scan_output_axes", &[1, -2]),
        attribute::ints("scan_output_directions", &[0, 1]),
    ]);
    let feeds = [
        ("start", array(&[2], &[0.0, 0.0])),
        ("x", array(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ("y", array(&[2, 3], &[10.0, 20.0, 30.0, 0.0, 0.0, 0.0])),
    ];
    let (results, _) = run(&model, &feeds).unwrap();
    assert_eq!(results[0], array(&[2], &[66.0, 15.0]));
    // By iteration (31, 4), (53, 9), (66, 15), as columns.
    assert_eq!(results[1], array(&[2, 3], &[31.0, 53.0, 66.0, 4.0, 9.0, 15.0]));
    // The columns of x as rows, the last in front.
    assert_eq!(results[2], array(&[3, 2], &[3.0, 6.0, 2.0, 5.0, 1.0, 4.0]));
}

#[test]
fn a_scan_of_nothing_and_of_what_does_not_fit() {
    let feeds = |x: Array, y: Array| [("start", array(&[2], &[1.0, 2.0])), ("x", x), ("y", y)];
    let none = || array(&[0, 2], &[]);
    let (results, iterations) = run(&sums(vec![]), &feeds(none(), none())).unwrap();
    assert_eq!((iterations, &results[0]), (0, &array(&[2], &[1.0, 2.0])));
    assert_eq!(results[1].shape, [0, 2]);
    let error = |model: &Model, x, y| run(model, &feeds(x, y)).unwrap_err().to_string();
    let one = array(&[1, 2], &[1.0, 2.0]);
    assert!(error(&sums(vec![]), none(), one.clone()).contains("of lengths [0, 1]"));
    let axes = sums(vec![attribute::ints("scan_input_axes", &[2])]);
    assert!(error(&axes, one.clone(), one).contains("its input 1 has no axis 2"));
}

fn weight(name: &str) -> TensorProto {
    tensor(name, Tensor::from_f32(&[2, 2], vec![1.0, 2.0, -1.0, 0.5]).unwrap())
}

/// Twice in a loop: `x W` if the condition holds, else the sum of `x` and what the body around captures.
fn nested() -> Model {
    let then = graph(vec![node("MatMul", "state w", "product")], vec![], vec![floats("product", &[1, 2])]);
    let other = graph(vec![node("Add", "state bent", "sum")], vec![], vec![floats("sum", &[1, 2])]);
    let turn = graph(
        vec![
            node("Equal", "turn zero", "first"),
            control("If", "first", "next", [body("else_branch", other), body("then_branch", then)]),
        ],
        vec![
            value("turn", DataType::Int64, &[]),
            value("going", DataType::Bool, &[]),
            floats("state", &[1, 2]),
        ],
        vec![value("going", DataType::Bool, &[]), floats("next", &[1, 2])],
    );
    let mut around = graph(
        vec![
            node("MatMul", "x w", "made"),
            node("Abs", "made", "bent"),
            control("Loop", "two - bent", "last", [body("body", turn)]),
            node("Neg", "last", "y"),
        ],
        vec![floats("x", &[1, 2])],
        vec![floats("y", &[1, 2])],
    );
    around.initializer = vec![
        weight("w"),
        tensor("two", Tensor::from_i64(&[], vec![2]).unwrap()),
        tensor("zero", Tensor::from_i64(&[], vec![0]).unwrap()),
    ];
    model(around)
}

/// Makes `zqc.linear` of every `MatMul`, those in regions included.
fn raise(model: &mut Model) {
    let regions: Vec<RegionId> = model.graph.regions().map(|(id, _)| id).collect();
    for id in regions {
        let mut region = model.region(id).unwrap();
        raise(&mut region);
        Patch::replace_region(model, id, region, "raised").apply(model).unwrap();
    }
    let graph = &model.graph;
    let mut patch = Patch::default();
    for (id, node) in graph.nodes().filter(|(_, node)| node.op.as_standard("MatMul").is_some()) {
        let linear = Linear {
            layer: "layer".into(),
            k: 2,
            n: 2,
            layout: Layout::InputOutput,
            alpha: 1.0,
            beta: 1.0,
            dtype: DataType::Float,
            origin: vec![node.clone()],
        };
        let node = NewNode { op: Op::Linear(linear), ..NewNode::restore(graph, node) };
        patch.changes.push(Change { remove: vec![id], add: vec![node], ..Change::new("linear") });
    }
    patch.apply(model).unwrap();
}

#[test]
fn an_interpreter_runs_bodies_with_layers_in_bodies() {
    let backend = backend("rten", Some(1)).unwrap();
    let run = |model: &Model| {
        let wanted = model.graph.outputs().to_vec();
        let interpreter = Interpreter::new(model, backend.as_ref(), wanted).unwrap();
        let x = array(&[1, 2], &[1.0, 2.0]);
        let whole = interpreter.run(interpreter.feed([("x", x.clone())])).unwrap();
        let prepared = interpreter.prepare().unwrap();
        for _ in 0..2 {
            assert_eq!(prepared.run(interpreter.feed([("x", x.clone())])).unwrap(), whole);
        }
        (whole, interpreter.stages().iter().map(|stage| stage.own().count()).collect::<Vec<_>>())
    };
    // bent = |x W| = (1, 3); iteration 0: (1, 3) W = (-2, 3.5); iteration 1: plus bent.
    let expected = vec![array(&[1, 2], &[1.0, -6.5])];
    assert_eq!(run(&nested()), (expected.clone(), vec![0]));
    let mut raised = nested();
    raise(&mut raised);
    // The layer, the loop, and what comes after it.
    assert_eq!(run(&raised), (expected, vec![1, 1, 0]));
}

#[test]
fn a_watcher_is_called_before_every_iteration_and_can_stop_the_operator() {
    let model = doubling("count - start");
    let backend = backend("rten", Some(1)).unwrap();
    let (id, _) = model.graph.nodes().next().unwrap();
    let control = Control::new(&model, id, backend.as_ref()).unwrap().unwrap();
    let [a, b] = start();
    let live: Live =
        [a, b, count(5)].map(|(name, array)| (model.graph.find(name).unwrap(), array)).into_iter().collect();
    let mut states = Vec::new();
    let mut watch = |index: usize, graph: &zqc_ir::Graph, fed: &Live| {
        assert_eq!(index, 0);
        states.push(fed[&graph.find("state").unwrap()].clone());
        if states.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    assert_eq!(control.run(&live, &mut LoadedRegions::default(), &mut watch).unwrap(), None);
    assert_eq!(states, [[1.0, 2.0], [2.0, 5.0], [4.0, 11.0]].map(|state| array(&[2], &state)));
}

#[test]
fn a_scan_with_a_batch_dimension_is_refused() {
    let mut model = sums(vec![]);
    model.import_opset("", 8);
    let error = run(&model, &[]).unwrap_err().to_string();
    assert!(error.contains("batch dimension"), "{error}");
}
