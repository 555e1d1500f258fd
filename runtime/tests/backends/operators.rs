//! Operators that rten computes otherwise than it is given them.

use super::*;

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
    let subgraph = subgraph(graph);
    let x = Array::new(vec![n, n], numbers(11)).unwrap();
    let with =
        |threads| run(&*backend("rten", Some(threads)).unwrap(), &subgraph, &[("x", &x)], "y").unwrap();
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
            let mut subgraph = subgraph(GraphProto {
                input: vec![of_rank("a", rank_a)],
                output: vec![value("y", DataType::Float)],
                initializer: vec![tensor("b", DataType::Float, &dims, f32_bytes(b.as_f32().unwrap()))],
                node: vec![fused],
                ..Default::default()
            });
            subgraph.model.opset_import.push(opset("com.microsoft", 1));
            let expected = fused_product(&a, &b, transposed, 0.5);
            let found = run(&*rten, &subgraph, &[("a", &a)], "y").unwrap();
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
        let mut subgraph = subgraph(GraphProto {
            input: vec![value("x", DataType::Float)],
            output: vec![value("y", DataType::Float)],
            node: vec![softmax],
            ..Default::default()
        });
        subgraph.model.opset_import = vec![opset("", 17), opset("ai.onnx", version)];
        run(&*rten, &subgraph, &[("x", &x)], "y").unwrap()
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
