//! Small models made by hand run the same in every back end of the build: with the feature `ort`, ONNX Runtime must be there.

use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TypeProto, ValueInfoProto, attribute_proto, type_proto,
};
use zqc_runtime::{Array, ArrayData, Backend, BackendError, Piece, available_backends, backend};

fn backends() -> Vec<Box<dyn Backend>> {
    let load = |name: &&str| backend(name, Some(1)).unwrap_or_else(|error| panic!("{error}"));
    available_backends().iter().map(load).collect()
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn node(op_type: &str, input: &[&str], output: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.into()),
        input: strings(input),
        output: strings(output),
        ..Default::default()
    }
}

fn value(name: &str, data_type: DataType) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(data_type as i32), shape: None };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(r#type), ..Default::default() }
}

fn tensor(name: &str, data_type: DataType, dims: &[i64], bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(data_type as i32),
        dims: dims.to_vec(),
        raw_data: Some(bytes.into()),
        ..Default::default()
    }
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

fn piece(graph: GraphProto) -> Piece {
    let graph = GraphProto { name: Some("g".into()), ..graph };
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset("", 17)],
        graph: Some(graph),
        ..Default::default()
    };
    Piece { model }
}

fn run(
    backend: &dyn Backend,
    piece: &Piece,
    feeds: &[(&str, &Array)],
    fetch: &str,
) -> Result<Array, BackendError> {
    Ok(backend.load(piece)?.run(feeds, &[fetch])?.remove(0))
}

/// `y = x w + b`.
fn linear(data_type: DataType, w: Vec<u8>, b: Vec<u8>) -> Piece {
    piece(GraphProto {
        input: vec![value("x", data_type)],
        output: vec![value("y", data_type)],
        initializer: vec![tensor("w", data_type, &[2, 2], w), tensor("b", data_type, &[2], b)],
        node: vec![node("MatMul", &["x", "w"], &["xw"]), node("Add", &["xw", "b"], &["y"])],
        ..Default::default()
    })
}

const W: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const B: [f32; 2] = [0.5, -0.5];

fn f32_bytes(elements: &[f32]) -> Vec<u8> {
    elements.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn float_types_go_in_and_come_out_as_f32() {
    let f16 =
        |elements: &[f32]| elements.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
    let bf16 =
        |elements: &[f32]| elements.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
    let f64 = |elements: &[f32]| elements.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect();
    let x = Array::new(vec![1, 2], vec![1f32, -1.0]).unwrap();
    let y = Array::new(vec![1, 2], vec![-1.5f32, -2.5]).unwrap();
    for backend in backends() {
        for (data_type, w, b) in [
            (DataType::Float, f32_bytes(&W), f32_bytes(&B)),
            (DataType::Float16, f16(&W), f16(&B)),
            (DataType::Double, f64(&W), f64(&B)),
            (DataType::Bfloat16, bf16(&W), bf16(&B)),
        ] {
            if backend.name() == "ort" && data_type == DataType::Bfloat16 {
                continue; // ONNX Runtime's CPU kernels have no BFLOAT16 MatMul.
            }
            let result = run(&*backend, &linear(data_type, w, b), &[("x", &x)], "y").unwrap();
            assert_eq!(result, y, "{data_type:?} in {}", backend.name());
        }
    }
}

#[test]
fn integers_and_booleans_keep_their_declared_type() {
    let graph = GraphProto {
        input: vec![value("a", DataType::Int64), value("flag", DataType::Bool)],
        output: vec![value("sum", DataType::Int64), value("not", DataType::Bool)],
        node: vec![node("Add", &["a", "a"], &["sum"]), node("Not", &["flag"], &["not"])],
        ..Default::default()
    };
    let piece = piece(graph);
    let a = Array::new(vec![2], vec![1i64, -2]).unwrap();
    let flag = Array::new(vec![2], vec![true, false]).unwrap();
    for backend in backends() {
        let mut session = backend.load(&piece).unwrap();
        let outputs = session.run(&[("a", &a), ("flag", &flag)], &["not", "sum"]).unwrap();
        assert_eq!(outputs[0].data, vec![false, true].into(), "{}", backend.name());
        assert_eq!(outputs[1].data, vec![2i64, -4].into(), "{}", backend.name());
    }
}

#[test]
fn outputs_need_no_type_and_dimensions_may_be_zero() {
    let mut piece = linear(DataType::Float, f32_bytes(&W), f32_bytes(&B));
    let graph = piece.model.graph.as_mut().unwrap();
    graph.output.push(ValueInfoProto { name: Some("xw".into()), ..Default::default() });
    let empty = Array::new(vec![0, 2], Vec::<f32>::new()).unwrap();
    for backend in backends() {
        let outputs = backend.load(&piece).unwrap().run(&[("x", &empty)], &["xw", "y"]).unwrap();
        assert_eq!(outputs, [empty.clone(), empty.clone()], "{}", backend.name());
    }
}

/// `y = x w` with so large a weight that it is handed over beside the message; all numbers are whole and exact.
#[test]
fn large_weights_are_handed_over() {
    let n = 64;
    let number = |at: usize| ((at * 7) % 11) as f32 - 5.0;
    let w: Vec<f32> = (0..n * n).map(number).collect();
    let x: Vec<f32> = (0..3 * n).map(|at| number(at + 4)).collect();
    let product = |row: &[f32], column: usize| -> f32 {
        row.iter().enumerate().map(|(at, x)| x * w[at * n + column]).sum()
    };
    let y = x.chunks(n).flat_map(|row| (0..n).map(move |column| (row, column)));
    let y =
        Array::new(vec![3, n], y.map(|(row, column)| product(row, column)).collect::<Vec<f32>>()).unwrap();
    let piece = piece(GraphProto {
        input: vec![value("x", DataType::Float)],
        output: vec![value("y", DataType::Float)],
        initializer: vec![tensor("w", DataType::Float, &[n as i64; 2], f32_bytes(&w))],
        node: vec![node("MatMul", &["x", "w"], &["y"])],
        ..Default::default()
    });
    let x = Array::new(vec![3, n], x).unwrap();
    for backend in backends() {
        assert_eq!(run(&*backend, &piece, &[("x", &x)], "y").unwrap(), y, "{}", backend.name());
    }
}

#[test]
fn arrays_of_every_type_go_in_and_come_out() {
    let arrays: [(DataType, ArrayData); 6] = [
        (DataType::Float, vec![1.5f32, -2.0].into()),
        (DataType::Int64, vec![1i64 << 20, -3].into()),
        (DataType::Int32, vec![7i32, -8].into()),
        (DataType::Int8, vec![100i8, -128].into()),
        (DataType::Uint8, vec![0u8, 255].into()),
        (DataType::Bool, vec![true, false].into()),
    ];
    for backend in backends() {
        for (data_type, data) in &arrays {
            let piece = piece(GraphProto {
                input: vec![value("x", *data_type)],
                output: vec![value("y", *data_type)],
                node: vec![node("Identity", &["x"], &["y"])],
                ..Default::default()
            });
            let x = Array { shape: vec![2], data: data.clone() };
            let y = run(&*backend, &piece, &[("x", &x)], "y").unwrap();
            assert_eq!(y, x, "{data_type:?} in {}", backend.name());
        }
    }
}

#[test]
fn functions_are_run_with_the_attributes_of_the_call() {
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
    let mut piece = piece(GraphProto {
        input: vec![value("x", DataType::Float)],
        output: vec![value("y", DataType::Float), value("same", DataType::Float)],
        node: vec![node("Abs", &["x"], &["t"]), call],
        ..Default::default()
    });
    piece.model.opset_import.push(opset("test", 1));
    piece.model.functions = vec![function];
    let x = Array::new(vec![1, 1], vec![-2f32]).unwrap();
    let y = Array::new(vec![1, 2], vec![-2f32, -2.0]).unwrap();
    let same = Array::new(vec![1, 1], vec![2f32]).unwrap();
    let rten = backend("rten", None).unwrap();
    let outputs = rten.load(&piece).unwrap().run(&[("x", &x)], &["y", "same"]).unwrap();
    assert_eq!(outputs, [y.clone(), same]);
    // ONNX Runtime takes no function that yields its own input.
    let graph = piece.model.graph.as_mut().unwrap();
    graph.output.truncate(1);
    graph.node[1].output.truncate(1);
    piece.model.functions[0].output.truncate(1);
    for backend in backends() {
        assert_eq!(run(&*backend, &piece, &[("x", &x)], "y").unwrap(), y, "{}", backend.name());
    }
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
        (itself, "\"f0\" calls itself"),
        (doubling, "nodes or"),
        (empty, "nodes or"),
        (wide, "nodes or"),
        (deep, "more than 64 deep"),
    ] {
        let call = NodeProto { domain: Some("test".into()), ..node("f0", &["x"], &["y"]) };
        let mut piece = piece(GraphProto { node: vec![call], ..Default::default() });
        piece.model.functions = functions;
        let error = backend("rten", None).unwrap().load(&piece).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let error = backend("tpu", None).err().unwrap().to_string();
    assert!(error.contains("\"tpu\"") && error.contains("rten"), "{error}");

    let x = Array::new(vec![1, 2], vec![1f32, 2.0]).unwrap();
    let wide = Array::new(vec![1, 3], vec![0f32; 3]).unwrap();
    let linear = linear(DataType::Float, f32_bytes(&W), f32_bytes(&B));
    for backend in backends() {
        let run = |feeds: &[(&str, &Array)], fetch| run(&*backend, &linear, feeds, fetch).unwrap_err();
        assert!(matches!(run(&[("w", &x)], "y"), BackendError::UnknownInput { name } if name == "w"));
        assert!(matches!(run(&[("x", &x)], "xw"), BackendError::UnknownOutput { name } if name == "xw"));
        assert!(matches!(run(&[("x", &wide)], "y"), BackendError::Run { .. }));
        assert!(matches!(run(&[], "y"), BackendError::Run { .. }));
    }

    let unknown = piece(GraphProto {
        input: vec![value("x", DataType::Float)],
        output: vec![value("y", DataType::Float)],
        node: vec![node("Frobnicate", &["x"], &["y"])],
        ..Default::default()
    });
    let rten = backend("rten", None).unwrap();
    match rten.load(&unknown).err().unwrap() {
        BackendError::UnsupportedNode { node, op_type, .. } => {
            assert_eq!((node.as_str(), op_type.as_str()), ("Frobnicate(y)", "Frobnicate"));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn weights_of_the_wrong_length_are_refused() {
    for backend in backends() {
        let short = linear(DataType::Float, vec![0; 12], f32_bytes(&B));
        assert!(matches!(backend.load(&short), Err(BackendError::Load { .. })), "{}", backend.name());
        let mut huge = linear(DataType::Float, vec![0; 4096], f32_bytes(&B));
        huge.model.graph.as_mut().unwrap().initializer[0].dims = vec![1 << 40, 1 << 40];
        assert!(matches!(backend.load(&huge), Err(BackendError::Load { .. })), "{}", backend.name());
    }
}

#[test]
fn a_panic_inside_rten_is_an_error() {
    let shape = i64::from(i32::MAX).to_le_bytes().repeat(2);
    let absurd = piece(GraphProto {
        output: vec![value("y", DataType::Float)],
        initializer: vec![tensor("shape", DataType::Int64, &[2], shape)],
        node: vec![node("ConstantOfShape", &["shape"], &["y"])],
        ..Default::default()
    });
    let error = run(&*backend("rten", None).unwrap(), &absurd, &[], "y").unwrap_err();
    assert!(error.to_string().contains("it panicked: capacity overflow"), "{error}");
}

#[test]
fn the_number_of_threads_does_not_change_the_result() {
    let n = 300;
    let numbers =
        |seed: usize| (0..n * n).map(|i| ((i * seed) % 1013) as f32 / 1013.0 - 0.5).collect::<Vec<_>>();
    let graph = GraphProto {
        input: vec![value("x", DataType::Float)],
        output: vec![value("y", DataType::Float)],
        initializer: vec![tensor("w", DataType::Float, &[n as i64; 2], f32_bytes(&numbers(7)))],
        node: vec![node("MatMul", &["x", "w"], &["z"]), node("Softmax", &["z"], &["y"])],
        ..Default::default()
    };
    let piece = piece(graph);
    let x = Array::new(vec![n, n], numbers(11)).unwrap();
    let with = |threads| run(&*backend("rten", Some(threads)).unwrap(), &piece, &[("x", &x)], "y").unwrap();
    assert_eq!(with(1), with(2));
    assert_eq!(with(1), with(5));
}
