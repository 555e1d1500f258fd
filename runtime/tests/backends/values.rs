//! Arrays of all types go in and come out.

use super::*;

in_every_backend! {
    float_types_go_in_and_come_out_as_f32
    integers_and_booleans_keep_their_declared_type
    outputs_need_no_type_and_dimensions_may_be_zero
    large_weights_are_handed_over
    arrays_of_every_type_go_in_and_come_out
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
    let subgraph = subgraph(graph);
    let a = Array::new(vec![2], vec![1i64, -2]).unwrap();
    let flag = Array::new(vec![2], vec![true, false]).unwrap();
    let session = backend.load(&subgraph).unwrap();
    let outputs = session.run(&[("a", &a), ("flag", &flag)], &["not", "sum"]).unwrap();
    assert_eq!(outputs[0].data, vec![false, true].into());
    assert_eq!(outputs[1].data, vec![2i64, -4].into());
}

fn outputs_need_no_type_and_dimensions_may_be_zero(backend: &dyn Backend) {
    let mut subgraph = linear(DataType::Float, f32_bytes(&W), f32_bytes(&B));
    let graph = subgraph.model.graph.as_mut().unwrap();
    graph.output.push(ValueInfoProto { name: Some("xw".into()), ..Default::default() });
    let empty = Array::new(vec![0, 2], Vec::<f32>::new()).unwrap();
    let outputs = backend.load(&subgraph).unwrap().run(&[("x", &empty)], &["xw", "y"]).unwrap();
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
    let subgraph = subgraph(GraphProto {
        input: vec![value("x", DataType::Float)],
        output: vec![value("y", DataType::Float)],
        initializer: vec![tensor("w", DataType::Float, &[n as i64; 2], f32_bytes(&w))],
        node: vec![node("MatMul", &["x", "w"], &["y"])],
        ..Default::default()
    });
    let x = Array::new(vec![3, n], x).unwrap();
    assert_eq!(run(backend, &subgraph, &[("x", &x)], "y").unwrap(), y);
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
        let subgraph = subgraph(GraphProto {
            input: vec![value("x", *data_type)],
            output: vec![value("y", *data_type)],
            node: vec![node("Identity", &["x"], &["y"])],
            ..Default::default()
        });
        let x = Array { shape: vec![2], data: data.clone() };
        let y = run(backend, &subgraph, &[("x", &x)], "y").unwrap();
        assert_eq!(y, x, "{data_type:?}");
    }
}
