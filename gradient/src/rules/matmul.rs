//! Matrix products.

use zqc_ir::op::attribute::{float, int, ints};
use zqc_ir::op::{Layout, Linear, QuantizedLinear, port};
use zqc_ir::types::{Dim, Type};
use zqc_ir::{Op, Tensor, ValueRef, operands};

use crate::backward::{Backward, Reason};

/// `g bᵀ` and `aᵀ g`, summed over the axes of the batch along which an operand was broadcast.
pub(crate) fn mat_mul(node: &mut Backward) -> Result<(), Reason> {
    let (g, a, b) = (node.sole_gradient()?, node.x(0)?, node.x(1)?);
    let (rank_a, rank_b) = (node.x_type(0).rank(), node.x_type(1).rank());
    if let (Some(3..), Some([k, n])) = (rank_a, matrix(&node.x_type(1))) {
        return by_rows(node, &g, &a, &b, k, n);
    }
    // Vectors become matrices of one row or one column. A value of unknown rank is taken for a matrix, and fails to run if it is none.
    let [is_row, is_column] = [rank_a, rank_b].map(|rank| rank == Some(1));
    let (mut rows, mut columns, mut gone) = (a, b, Vec::new());
    if is_column {
        columns = node.unsqueezed(&columns, &[1]);
        gone.push(-1);
    }
    if is_row {
        rows = node.unsqueezed(&rows, &[0]);
        gone.push(if is_column { -1 } else { -2 });
    }
    let mut g = g;
    for axis in gone {
        g = node.unsqueezed(&g, &[axis]);
    }
    let batch = batch(node, 2 - usize::from(is_row) - usize::from(is_column));
    if node.wants(0) {
        let turned = transposed(node, &columns, rank_b.map(|rank| rank.max(2)));
        let gradient = node.op("MatMul", &[&g, &turned]);
        give(node, 0, gradient, is_row, &batch);
    }
    if node.wants(1) {
        // `aᵀ g` is `(gᵀ a)ᵀ`, which turns the narrow matrices where `a` is attention's probabilities.
        let [width_a, width_b] = [0, 1].map(|port| node.x_type(port).dim(-1).fixed());
        let gradient = if !is_row && !is_column && width_a.is_none() && width_b.is_some() {
            let rank = node.y_type(0).rank();
            let turned = transposed(node, &g, rank);
            let gradient = node.op("MatMul", &[&turned, &rows]);
            transposed(node, &gradient, rank)
        } else {
            let turned = transposed(node, &rows, rank_a.map(|rank| rank.max(2)));
            node.op("MatMul", &[&turned, &g])
        };
        give(node, 1, gradient, is_column, &batch);
    }
    Ok(())
}

/// The dimensions of a matrix, where it is one and they are known.
fn matrix(ty: &Type) -> Option<[i64; 2]> {
    match ty.shape.as_deref() {
        Some([rows, columns]) => Some([rows.fixed()?, columns.fixed()?]),
        _ => None,
    }
}

/// The product of a batch with one matrix `[k, n]`: all rows of the batch are those of one matrix, too.
fn by_rows(
    node: &mut Backward,
    g: &ValueRef,
    a: &ValueRef,
    b: &ValueRef,
    k: i64,
    n: i64,
) -> Result<(), Reason> {
    if node.wants(0) {
        let turned = transposed(node, b, Some(2));
        let gradient = node.op("MatMul", &[g, &turned]);
        node.give(0, gradient);
    }
    if node.wants(1) {
        let gradient = product_of_rows(node, a, k, g, n);
        node.give(1, gradient);
    }
    Ok(())
}

/// `aᵀ b` of all rows of both, `[a_width, b_width]`.
fn product_of_rows(node: &mut Backward, a: &ValueRef, a_width: i64, b: &ValueRef, b_width: i64) -> ValueRef {
    let (a_shape, b_shape) = (node.integers(&[-1, a_width]), node.integers(&[-1, b_width]));
    let (a, b) = (node.op("Reshape", &[a, &a_shape]), node.op("Reshape", &[b, &b_shape]));
    let turned = transposed(node, &a, Some(2));
    node.op("MatMul", &[&turned, &b])
}

/// The dimensions of the batch of a product, of which so many others are those of its matrices.
fn batch(node: &Backward, others: usize) -> Option<Vec<Dim>> {
    let mut dims = node.y_type(0).shape?;
    dims.truncate(dims.len().checked_sub(others)?);
    Some(dims)
}

/// Gives an operand its gradient, which has the dimensions of the batch and those of its matrix.
fn give(node: &mut Backward, port: usize, gradient: ValueRef, is_vector: bool, batch: &Option<Vec<Dim>>) {
    let mut gradient = gradient;
    if is_vector {
        let axis = node.integers(&[if port == 0 { -2 } else { -1 }]);
        gradient = node.op("Squeeze", &[&gradient, &axis]);
    }
    let operand = node.x_type(port).shape.unwrap_or_default();
    let matrix = operand[operand.len().saturating_sub(2)..].iter().cloned();
    let shape = batch.clone().map(|batch| batch.into_iter().chain(matrix).collect::<Vec<_>>());
    node.give_sum(port, gradient, &Type::new(None, shape));
}

/// The value with its last two axes exchanged.
fn transposed(node: &mut Backward, x: &ValueRef, rank: Option<usize>) -> ValueRef {
    if let Some(rank @ 2..) = rank {
        let mut order: Vec<i64> = (0..rank as i64).collect();
        order.swap(rank - 2, rank - 1);
        return node.op_with("Transpose", &[x], [ints("perm", &order)]);
    }
    let (rows, columns) = (node.length(x, -2), node.length(x, -1));
    let (first, last, stack) = (node.integers(&[0]), node.integers(&[-2]), node.integers(&[-1]));
    let shape = node.shape(x);
    let batch = node.op("Slice", &[&shape, &first, &last]);
    let three = node.op_with("Concat", &[&stack, &rows, &columns], [int("axis", 0)]);
    let x = node.op("Reshape", &[x, &three]);
    let turned = node.op_with("Transpose", &[&x], [ints("perm", &[0, 2, 1])]);
    let shape = node.op_with("Concat", &[&batch, &columns, &rows], [int("axis", 0)]);
    node.op("Reshape", &[&turned, &shape])
}

/// With `A` and `B` transposed as it says, `alpha g Bᵀ`, `alpha Aᵀ g` and `beta g`.
pub(crate) fn gemm(node: &mut Backward) -> Result<(), Reason> {
    let (g, a, b) = (node.sole_gradient()?, node.x(0)?, node.x(1)?);
    let (alpha, beta) = (node.float_or("alpha", 1.0), node.float_or("beta", 1.0));
    let [turned_a, turned_b] = ["transA", "transB"].map(|name| node.int_or(name, 0) != 0);
    let product = |node: &mut Backward, left: &ValueRef, turn_left: bool, right: &ValueRef, turn_right| {
        let attributes =
            [float("alpha", alpha), int("transA", turn_left.into()), int("transB", i64::from(turn_right))];
        node.op_with("Gemm", &[left, right], attributes)
    };
    if node.wants(0) {
        let gradient = match turned_a {
            false => product(node, &g, false, &b, !turned_b),
            true => product(node, &b, turned_b, &g, true),
        };
        node.give(0, gradient);
    }
    if node.wants(1) {
        let gradient = match turned_b {
            false => product(node, &a, !turned_a, &g, false),
            true => product(node, &g, true, &a, turned_a),
        };
        node.give(1, gradient);
    }
    give_to_bias(node, 2, g, beta);
    Ok(())
}

/// Our linear layer: the gradient of its input is that of the output by the same weight, which lies the other way round.
pub(crate) fn linear(node: &mut Backward) -> Result<(), Reason> {
    let g = node.sole_gradient()?;
    let Op::Linear(layer) = &node.node().op else { return Err("it is no linear layer") };
    let Linear { k, n, layout, alpha, beta, .. } = *layer;
    if node.wants(port::X) {
        let weight = node.x(port::WEIGHT)?;
        let turned = Linear {
            k: n,
            n: k,
            layout: layout.transposed(),
            beta: 1.0,
            origin: Vec::new(),
            ..layer.clone()
        };
        let gradient = node.node_of(Op::Linear(turned), vec![Some(g.clone()), Some(weight)]);
        node.give(port::X, gradient);
    }
    if node.wants(port::WEIGHT) {
        let x = node.x(port::X)?;
        let (k, n) = (k as i64, n as i64);
        let product = match layout {
            Layout::InputOutput => product_of_rows(node, &x, k, &g, n),
            Layout::OutputInput => product_of_rows(node, &g, n, &x, k),
        };
        let gradient = node.scaled(product, alpha);
        node.give(port::WEIGHT, gradient);
    }
    give_to_bias(node, port::LINEAR_BIAS, g, beta);
    Ok(())
}

/// A linear layer on codes: the gradient of its input is that of the output by the dequantized weight, low-rank branch included. The
/// codes have none.
pub(crate) fn quantized_linear(node: &mut Backward) -> Result<(), Reason> {
    let g = node.sole_gradient()?;
    let (graph, layer) = (node.graph(), node.node());
    let Op::QuantizedLinear(quantized) = &layer.op else { return Err("it is no quantized layer") };
    if node.wants(port::SCALES) || node.wants(port::LOW_RANK_SCALES) {
        return Err("the gradient with respect to its scales is not written");
    }
    if node.wants(port::X) {
        const UNREADABLE: Reason = "its operands cannot be read";
        let mut weight = operands::matrix(graph, layer, quantized).map_err(|_| UNREADABLE)?.dequantize();
        if let Some(branch) = operands::low_rank(graph, layer, quantized).map_err(|_| UNREADABLE)? {
            weight.iter_mut().zip(branch.dense()).for_each(|(weight, branch)| *weight += branch);
        }
        let &QuantizedLinear { k, n, dtype, .. } = quantized;
        let weight = Tensor::from_f32_as(dtype, &[n, k], weight).map_err(|_| UNREADABLE)?;
        let weight = node.constant(&format!("{}_weight", quantized.layer), weight);
        let turned = Linear {
            layer: quantized.layer.clone(),
            k: n,
            n: k,
            layout: Layout::InputOutput,
            alpha: 1.0,
            beta: 1.0,
            dtype,
            origin: Vec::new(),
        };
        let gradient = node.node_of(Op::Linear(turned), vec![Some(g.clone()), Some(weight)]);
        node.give(port::X, gradient);
    }
    give_to_bias(node, port::QUANTIZED_BIAS, g, quantized.beta);
    Ok(())
}

/// `beta g` for the bias at an input, if its gradient is wanted.
fn give_to_bias(node: &mut Backward, port: usize, g: ValueRef, beta: f32) {
    if node.wants(port) {
        let whole = node.y_type(0);
        let gradient = node.scaled(g, beta);
        node.give_sum(port, gradient, &whole);
    }
}
