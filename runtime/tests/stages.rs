//! Cutting a graph into stages, and running it stage by stage.

use zqc_ir::onnx::from_proto;
use zqc_ir::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TypeProto, ValueInfoProto, type_proto,
};
use zqc_ir::op::{Layout, Linear};
use zqc_ir::tensor::DataType;
use zqc_ir::{Change, Model, NewNode, Op, Patch};
use zqc_runtime::{Array, Interpreter, RunError, backend, partition};

const K: usize = 3;

fn float(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: None };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value, ..Default::default() }),
        ..Default::default()
    }
}

fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.into()),
        input: inputs.iter().map(|name| name.to_string()).collect(),
        output: vec![output.into()],
        ..Default::default()
    }
}

fn matrix(name: &str, values: [f32; K * K]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: vec![K as i64, K as i64],
        data_type: Some(DataType::Float as i32),
        float_data: values.to_vec(),
        ..Default::default()
    }
}

/// `y = relu(x W1) W2 + (|mask| of x) + W3ᵀ`, where `side` is read by the last addition only.
fn model() -> Model {
    let graph = GraphProto {
        name: Some("two_layers".into()),
        node: vec![
            node("Abs", &["x"], "side"),
            node("Transpose", &["w3"], "fixed"),
            node("MatMul", &["x", "w1"], "first"),
            node("Relu", &["first"], "hidden"),
            node("MatMul", &["hidden", "w2"], "second"),
            node("Add", &["second", "side"], "sum"),
            node("Add", &["sum", "fixed"], "y"),
        ],
        initializer: vec![
            matrix("w1", [1.0, -2.0, 0.5, 0.0, 1.5, -1.0, 2.0, 0.25, 1.0]),
            matrix("w2", [0.5, 1.0, -1.0, 2.0, 0.0, 1.0, -0.5, 1.0, 1.0]),
            matrix("w3", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]),
        ],
        input: vec![float("x")],
        output: vec![float("y")],
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..Default::default()
    };
    from_proto(model).expect("a valid model")
}

/// The same with both `MatMul` as `zqc.linear`.
fn with_linears() -> Model {
    let mut model = model();
    let graph = &model.graph;
    let mut patch = Patch::default();
    for (id, node) in graph.nodes().filter(|(_, node)| node.op.as_standard("MatMul").is_some()) {
        let linear = Linear {
            layer: "layer".into(),
            k: K,
            n: K,
            layout: Layout::InputOutput,
            alpha: 1.0,
            beta: 1.0,
            dtype: DataType::Float,
            origin: vec![node.clone()],
        };
        let node = NewNode { op: Op::Linear(linear), ..NewNode::restore(graph, node) };
        patch.changes.push(Change { remove: vec![id], add: vec![node], ..Change::new("linear") });
    }
    patch.apply(&mut model).expect("the patch fits");
    model
}

fn run(model: &Model) -> Result<Vec<f32>, RunError> {
    let backend = backend("rten", Some(1)).expect("the built-in back end");
    let y = model.graph.find("y").expect("the result");
    let interpreter = Interpreter::new(model, backend.as_ref(), vec![y])?;
    let x = Array::new(vec![K, K], vec![1.0f32, -1.0, 2.0, 0.5, 3.0, -2.0, 0.0, 1.0, 1.0]).expect("an array");
    let results = interpreter.prepare()?.run(interpreter.feed([("x", x)]))?;
    Ok(results[0].as_f32().expect("floats").to_vec())
}

#[test]
fn a_graph_in_stages_computes_what_it_computes_whole() {
    assert_eq!(run(&with_linears()).unwrap(), run(&model()).unwrap());
}

#[test]
fn several_threads_run_what_is_loaded_once() {
    let model = with_linears();
    let backend = backend("rten", Some(2)).unwrap();
    let wanted = vec![model.graph.find("y").unwrap()];
    let interpreter = Interpreter::new(&model, backend.as_ref(), wanted).unwrap();
    let sample = |at: usize| {
        let x = (0..K * K).map(|i| ((i * 7 + at * 5) % 11) as f32 - 5.0).collect::<Vec<_>>();
        interpreter.feed([("x", Array::new(vec![K, K], x).unwrap())])
    };
    for prepared in [interpreter.prepare().unwrap(), interpreter.prepare_with_weights().unwrap()] {
        let alone: Vec<_> = (0..8).map(|at| prepared.run(sample(at)).unwrap()).collect();
        assert_ne!(alone[0], alone[1]);
        let together: Vec<_> = std::thread::scope(|scope| {
            let run = |at| prepared.run(sample(at)).unwrap();
            let threads: Vec<_> = (0..8).map(|at| scope.spawn(move || run(at))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(together, alone);
    }
}

#[test]
fn standard_operators_wait_for_their_readers_and_constants_stay_with_them() {
    let model = with_linears();
    let graph = &model.graph;
    let stages = partition(graph, &[graph.find("y").unwrap()], |_| false).unwrap();
    let kinds = |stage: usize| {
        stages[stage].nodes.iter().map(|&id| graph.node(id).op.kind().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(stages.len(), 3);
    assert_eq!(kinds(0), [""; 0]);
    assert_eq!(kinds(1), ["Relu"]);
    assert_eq!(kinds(2), ["Transpose", "Abs", "Add", "Add"]);
    assert_eq!(stages[0].linears.len(), 1);
    assert_eq!(stages[1].linears.len(), 1);
    let x = graph.find("x").unwrap();
    assert!(!stages[1].last_read.contains(&x), "the last stage reads x");
    assert!(stages[2].last_read.contains(&x));
}

#[test]
fn what_is_not_fed_is_named() {
    let model = with_linears();
    let backend = backend("rten", Some(1)).unwrap();
    let interpreter =
        Interpreter::new(&model, backend.as_ref(), vec![model.graph.find("y").unwrap()]).unwrap();
    let result = interpreter.prepare().unwrap().run(interpreter.feed([]));
    assert!(matches!(result, Err(RunError::NotFed { value }) if value == "x"));
}
