//! Model-local functions.

use super::*;

in_every_backend! {
    functions_are_run_with_the_attributes_of_the_call
}

fn functions_are_run_with_the_attributes_of_the_call(backend: &dyn Backend) {
    let mut axis = AttributeProto {
        name: Some("axis".into()),
        ref_attr_name: Some("along".into()),
        r#type: Some(attribute_proto::AttributeType::Int as i32),
        ..Default::default()
    };
    let mut concat = node("Concat", &["p", "q"], &["t"]);
    concat.attribute = vec![axis.clone()];
    let function = FunctionProto {
        domain: Some("test".into()),
        name: Some("Join".into()),
        input: strings(&["p", "q"]),
        output: strings(&["r", "p"]),
        attribute: strings(&["along"]),
        node: vec![concat, node("Neg", &["t"], &["r"])],
        opset_import: vec![opset("", 17)],
        ..Default::default()
    };
    let mut call = node("Join", &["t", "t"], &["y", "same"]);
    call.domain = Some("test".into());
    axis.name = Some("along".into());
    axis.ref_attr_name = None;
    axis.i = Some(1);
    call.attribute = vec![axis];
    let mut subgraph = subgraph(GraphProto {
        input: vec![value("x", DataType::Float)],
        output: vec![value("y", DataType::Float), value("same", DataType::Float)],
        node: vec![node("Abs", &["x"], &["t"]), call],
        ..Default::default()
    });
    subgraph.model.opset_import.push(opset("test", 1));
    subgraph.model.functions = vec![function];
    let x = Array::new(vec![1, 1], vec![-2f32]).unwrap();
    let y = Array::new(vec![1, 2], vec![-2f32, -2.0]).unwrap();
    let same = Array::new(vec![1, 1], vec![2f32]).unwrap();
    let outputs = load("rten").load(&subgraph).unwrap().run(&[("x", &x)], &["y", "same"]).unwrap();
    assert_eq!(outputs, [y.clone(), same]);
    // ONNX Runtime takes no function that yields its own input.
    let graph = subgraph.model.graph.as_mut().unwrap();
    graph.output.truncate(1);
    graph.node[1].output.truncate(1);
    subgraph.model.functions[0].output.truncate(1);
    assert_eq!(run(backend, &subgraph, &[("x", &x)], "y").unwrap(), y);
}

#[test]
fn functions_without_end_are_refused() {
    let function = |name: &str, callees: &[&str]| FunctionProto {
        domain: Some("test".into()),
        name: Some(name.into()),
        input: strings(&["x"]),
        output: strings(&["y"]),
        node: callees
            .iter()
            .map(|callee| NodeProto { domain: Some("test".into()), ..node(callee, &["x"], &["y"]) })
            .collect(),
        ..Default::default()
    };
    let itself = vec![function("f0", &["f0"])];
    let doubling: Vec<_> =
        (0..40).map(|i| function(&format!("f{i}"), &[format!("f{}", i + 1).as_str(); 2])).collect();
    let mut empty = doubling.clone();
    empty.push(function("f40", &[]));
    let deep = (0..10_000).map(|i| function(&format!("f{i}"), &[&format!("f{}", i + 1)])).collect();
    let mut wide = vec![function("f0", &["f1"; 1000]), function("f1", &["Abs"; 8])];
    wide[1].node.iter_mut().for_each(|node| node.doc_string = Some("long ".repeat(10_000)));
    for (functions, expected) in [
        (itself, "more than 64 deep"),
        (doubling, "nodes or"),
        (empty, "nodes or"),
        (wide, "nodes or"),
        (deep, "more than 64 deep"),
    ] {
        let call = NodeProto { domain: Some("test".into()), ..node("f0", &["x"], &["y"]) };
        let mut subgraph = subgraph(GraphProto { node: vec![call], ..Default::default() });
        subgraph.model.functions = functions;
        let error = backend("rten", None).unwrap().load(&subgraph).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
