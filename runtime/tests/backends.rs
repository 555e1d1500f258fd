//! Small models made by hand run the same in every back end.

use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, type_proto,
};
use zqc_runtime::{Array, ArrayData, Backend, BackendError, Piece, backend};

/// What must hold in a back end holds in rten, and in ONNX Runtime where that is.
macro_rules! in_every_backend {
    ($($name:ident)*) => {
        mod in_rten {
            $(#[test]
            fn $name() {
                super::$name(&*super::load("rten"));
            })*
        }
        mod in_onnxruntime {
            $(#[test]
            #[ignore = "needs Python with ONNX Runtime: tests/run"]
            fn $name() {
                super::$name(&*super::load("ort"));
            })*
        }
    };
}

in_every_backend! {
    float_types_go_in_and_come_out_as_f32
    integers_and_booleans_keep_their_declared_type
    outputs_need_no_type_and_dimensions_may_be_zero
    large_weights_are_handed_over
    arrays_of_every_type_go_in_and_come_out
    functions_are_run_with_the_attributes_of_the_call
    errors_name_what_is_wrong
    weights_of_the_wrong_length_are_refused
}

fn load(name: &str) -> Box<dyn Backend> {
    backend(name, Some(1)).unwrap_or_else(|error| panic!("{error}"))
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
    Piece::from(model)
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

fn float_types_go_in_and_come_out_as_f32(backend: &dyn Backend) {
    let f16 =
        |elements: &[f32]| elements.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
    let bf16 =
        |elements: &[f32]| elements.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
    let f64 = |elements: &[f32]| elements.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect();
    let x = Array::new(vec![1, 2], vec![1f32, -1.0]).unwrap();
    let y = Array::new(vec![1, 2], vec![-1.5f32, -2.5]).unwrap();
    for (data_type, w, b) in [
        (DataType::Float, f32_bytes(&W), f32_bytes(&B)),
        (DataType::Float16, f16(&W), f16(&B)),
        (DataType::Double, f64(&W), f64(&B)),
        (DataType::Bfloat16, bf16(&W), bf16(&B)),
    ] {
        let result = run(backend, &linear(data_type, w, b), &[("x", &x)], "y").unwrap();
        assert_eq!(result, y, "{data_type:?}");
    }
}

fn integers_and_booleans_keep_their_declared_type(backend: &dyn Backend) {
    let graph = GraphProto {
        input: vec![value("a", DataType::Int64), value("flag", DataType::Bool)],
        output: vec![value("sum", DataType::Int64), value("not", DataType::Bool)],
        node: vec![node("Add", &["a", "a"], &["sum"]), node("Not", &["flag"], &["not"])],
        ..Default::default()
    };
    let piece = piece(graph);
    let a = Array::new(vec![2], vec![1i64, -2]).unwrap();
    let flag = Array::new(vec![2], vec![true, false]).unwrap();
    let mut session = backend.load(&piece).unwrap();
    let outputs = session.run(&[("a", &a), ("flag", &flag)], &["not", "sum"]).unwrap();
    assert_eq!(outputs[0].data, vec![false, true].into());
    assert_eq!(outputs[1].data, vec![2i64, -4].into());
}

fn outputs_need_no_type_and_dimensions_may_be_zero(backend: &dyn Backend) {
    let mut piece = linear(DataType::Float, f32_bytes(&W), f32_bytes(&B));
    let graph = piece.model.graph.as_mut().unwrap();
    graph.output.push(ValueInfoProto { name: Some("xw".into()), ..Default::default() });
    let empty = Array::new(vec![0, 2], Vec::<f32>::new()).unwrap();
    let outputs = backend.load(&piece).unwrap().run(&[("x", &empty)], &["xw", "y"]).unwrap();
    assert_eq!(outputs, [empty.clone(), empty.clone()]);
}

/// `y = x w` with so large a weight that it is handed over beside the message; all numbers are whole and exact.
fn large_weights_are_handed_over(backend: &dyn Backend) {
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
    assert_eq!(run(backend, &piece, &[("x", &x)], "y").unwrap(), y);
}

fn arrays_of_every_type_go_in_and_come_out(backend: &dyn Backend) {
    let arrays: [(DataType, ArrayData); 6] = [
        (DataType::Float, vec![1.5f32, -2.0].into()),
        (DataType::Int64, vec![1i64 << 20, -3].into()),
        (DataType::Int32, vec![7i32, -8].into()),
        (DataType::Int8, vec![100i8, -128].into()),
        (DataType::Uint8, vec![0u8, 255].into()),
        (DataType::Bool, vec![true, false].into()),
    ];
    for (data_type, data) in &arrays {
        let piece = piece(GraphProto {
            input: vec![value("x", *data_type)],
            output: vec![value("y", *data_type)],
            node: vec![node("Identity", &["x"], &["y"])],
            ..Default::default()
        });
        let x = Array { shape: vec![2], data: data.clone() };
        let y = run(backend, &piece, &[("x", &x)], "y").unwrap();
        assert_eq!(y, x, "{data_type:?}");
    }
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
    let outputs = load("rten").load(&piece).unwrap().run(&[("x", &x)], &["y", "same"]).unwrap();
    assert_eq!(outputs, [y.clone(), same]);
    // ONNX Runtime takes no function that yields its own input.
    let graph = piece.model.graph.as_mut().unwrap();
    graph.output.truncate(1);
    graph.node[1].output.truncate(1);
    piece.model.functions[0].output.truncate(1);
    assert_eq!(run(backend, &piece, &[("x", &x)], "y").unwrap(), y);
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
        let mut piece = piece(GraphProto { node: vec![call], ..Default::default() });
        piece.model.functions = functions;
        let error = backend("rten", None).unwrap().load(&piece).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_back_end_of_another_name_is_an_error() {
    let error = backend("tpu", None).err().unwrap().to_string();
    assert!(["\"tpu\"", "auto", "rten", "ort"].iter().all(|word| error.contains(word)), "{error}");
}

fn errors_name_what_is_wrong(backend: &dyn Backend) {
    let x = Array::new(vec![1, 2], vec![1f32, 2.0]).unwrap();
    let wide = Array::new(vec![1, 3], vec![0f32; 3]).unwrap();
    let linear = linear(DataType::Float, f32_bytes(&W), f32_bytes(&B));
    let run = |feeds: &[(&str, &Array)], fetch| run(backend, &linear, feeds, fetch).unwrap_err();
    assert!(matches!(run(&[("w", &x)], "y"), BackendError::UnknownInput { name } if name == "w"));
    assert!(matches!(run(&[("x", &x)], "xw"), BackendError::UnknownOutput { name } if name == "xw"));
    assert!(matches!(run(&[("x", &wide)], "y"), BackendError::Run { .. }));
    assert!(matches!(run(&[], "y"), BackendError::Run { .. }));
}

#[test]
fn an_unknown_operator_is_named() {
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

fn weights_of_the_wrong_length_are_refused(backend: &dyn Backend) {
    let short = linear(DataType::Float, vec![0; 12], f32_bytes(&B));
    assert!(matches!(backend.load(&short), Err(BackendError::Load { .. })));
    let mut huge = linear(DataType::Float, vec![0; 4096], f32_bytes(&B));
    huge.model.graph.as_mut().unwrap().initializer[0].dims = vec![1 << 40, 1 << 40];
    assert!(matches!(backend.load(&huge), Err(BackendError::Load { .. })));
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

/// `alpha a b` of matrices in row-major order, each transposed first if asked for, the stacks broadcast: the definition of
/// `FusedMatMul`.
fn fused_product(a: &Array, b: &Array, transposed: [bool; 2], alpha: f32) -> Array {
    let matrix = |array: &Array, transposed: bool, is_left: bool| -> (Vec<usize>, [usize; 2]) {
        let dims = match (&array.shape[..], is_left) {
            (&[k], true) => vec![1, k],
            (&[k], false) => vec![k, 1],
            (dims, _) => dims.to_vec(),
        };
        let (stack, last) = dims.split_at(dims.len() - 2);
        let [rows, columns] = [last[0], last[1]];
        let swapped = transposed && array.shape.len() > 1;
        (stack.to_vec(), if swapped { [columns, rows] } else { [rows, columns] })
    };
    let (stack_a, [m, k]) = matrix(a, transposed[0], true);
    let (stack_b, [k_b, n]) = matrix(b, transposed[1], false);
    assert_eq!(k, k_b);
    let stack = if stack_a.len() > stack_b.len() { &stack_a } else { &stack_b };
    let count: usize = stack.iter().product();
    let at =
        |array: &Array, transposed: bool, [rows, columns]: [usize; 2], stacked: usize, i: usize, j: usize| {
            let matrices = array.len() / (rows * columns);
            let swapped = transposed && array.shape.len() > 1;
            let place = if swapped { j * rows + i } else { i * columns + j };
            array.as_f32().unwrap()[stacked % matrices * rows * columns + place]
        };
    let mut values = Vec::new();
    for stacked in 0..count {
        for i in 0..m {
            for j in 0..n {
                let term = |l| {
                    at(a, transposed[0], [m, k], stacked, i, l) * at(b, transposed[1], [k, n], stacked, l, j)
                };
                values.push(alpha * (0..k).map(term).sum::<f32>());
            }
        }
    }
    let rows = (a.shape.len() > 1).then_some(m);
    let columns = (b.shape.len() > 1).then_some(n);
    Array::new(stack.iter().copied().chain(rows).chain(columns).collect(), values).unwrap()
}

#[test]
fn fused_products_of_any_ranks() {
    let array = |shape: Vec<usize>, seed: usize| {
        let count: usize = shape.iter().product();
        Array::new(shape, (0..count).map(|i| (i * seed % 7) as f32 - 3.0).collect::<Vec<_>>()).unwrap()
    };
    let rten = backend("rten", None).unwrap();
    for (rank_a, rank_b) in (1..=4).flat_map(|a| (1..=4).map(move |b| (a, b))) {
        for transposed in [[false, false], [false, true], [true, false], [true, true]] {
            let shape = |rank: usize, last: [usize; 2], transposed: bool, vector: usize| match rank {
                1 => vec![vector],
                _ => {
                    let [rows, columns] = if transposed { [last[1], last[0]] } else { last };
                    [&[3, 2][4 - rank..], &[rows, columns]].concat()
                }
            };
            let a = array(shape(rank_a, [5, 4], transposed[0], 4), 11);
            let b = array(shape(rank_b, [4, 6], transposed[1], 4), 5);
            let flag = |name: &str, value: bool| AttributeProto {
                name: Some(name.into()),
                i: Some(value.into()),
                ..Default::default()
            };
            let alpha = AttributeProto { name: Some("alpha".into()), f: Some(0.5), ..Default::default() };
            let mut fused = node("FusedMatMul", &["a", "b"], &["y"]);
            fused.domain = Some("com.microsoft".into());
            fused.attribute = vec![flag("transA", transposed[0]), flag("transB", transposed[1]), alpha];
            let dims: Vec<i64> = b.shape.iter().map(|&dim| dim as i64).collect();
            let of_rank = |name: &str, rank: usize| {
                let mut info = value(name, DataType::Float);
                let shape = TensorShapeProto { dim: vec![Default::default(); rank] };
                if let Some(type_proto::Value::TensorType(tensor)) = &mut info.r#type.as_mut().unwrap().value
                {
                    tensor.shape = Some(shape);
                }
                info
            };
            let mut piece = piece(GraphProto {
                input: vec![of_rank("a", rank_a)],
                output: vec![value("y", DataType::Float)],
                initializer: vec![tensor("b", DataType::Float, &dims, f32_bytes(b.as_f32().unwrap()))],
                node: vec![fused],
                ..Default::default()
            });
            piece.model.opset_import.push(opset("com.microsoft", 1));
            let expected = fused_product(&a, &b, transposed, 0.5);
            let found = run(&*rten, &piece, &[("a", &a)], "y").unwrap();
            assert_eq!(found, expected, "{rank_a} by {rank_b}, {transposed:?}");
        }
    }
}

/// Before opset 13 the dimensions from `axis` on were taken as one.
#[test]
fn softmax_of_old_opsets() {
    let x = Array::new(vec![2, 2, 2], vec![0f32, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]).unwrap();
    let rten = backend("rten", None).unwrap();
    let softmax = |version: i64, axis: Option<i64>| {
        let mut softmax = node("Softmax", &["x"], &["y"]);
        softmax.attribute.extend(axis.map(|axis| AttributeProto {
            name: Some("axis".into()),
            i: Some(axis),
            ..Default::default()
        }));
        let mut piece = piece(GraphProto {
            input: vec![value("x", DataType::Float)],
            output: vec![value("y", DataType::Float)],
            node: vec![softmax],
            ..Default::default()
        });
        piece.model.opset_import = vec![opset("", 17), opset("ai.onnx", version)];
        run(&*rten, &piece, &[("x", &x)], "y").unwrap()
    };
    for (version, axis, share) in [
        (12, None, 0.25),
        (12, Some(1), 0.25),
        (11, Some(-1), 0.5),
        (11, Some(-2), 0.25),
        (13, None, 0.5),
        (13, Some(1), 0.5),
    ] {
        let found = softmax(version, axis);
        assert_eq!(found.shape, [2, 2, 2]);
        let values = found.as_f32().unwrap();
        assert!(values.iter().all(|v| (v - share).abs() < 1e-6), "{version} {axis:?}: {values:?}");
    }
}
