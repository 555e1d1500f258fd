//! Float layers whose weight is a part of a constant of which other parts are quantized.

use std::collections::HashSet;

use zqc_ir::op::attribute::{int, ints};
use zqc_ir::op::{Layout, Linear, port};
use zqc_ir::{Change, FreshNames, Graph, NewNode, NodeId, Op, ValueId};

use crate::constant_view::{ConstantView, product};

/// The constant that the weight of the linear layer `id` is a part of; `None` where it is a whole one.
pub(super) fn stack(graph: &Graph, id: NodeId) -> Option<ValueId> {
    let Op::Linear(linear) = &graph.node(id).op else { return None };
    let product_node = linear.origin.first()?;
    // With the weight on the left, or in other operators, it is read as it was.
    product_node.op.as_standard("MatMul")?;
    let view = ConstantView::of(graph, product_node.input(1)?)?;
    let whole = graph.literal(view.root)?.elements().ok();
    let part = product(&view.dims).and_then(|size| usize::try_from(size).ok());
    (whole != part).then_some(view.root)
}

/// Lets the product that `change` puts back for the layer `id` read its own matrix, where its stack is one of those that would
/// stay for it alone.
pub(super) fn detach(
    graph: &Graph,
    names: &FreshNames,
    id: NodeId,
    quantized: &HashSet<ValueId>,
    change: &mut Change,
) {
    let node = graph.node(id);
    let (Op::Linear(Linear { layout, dtype, origin, .. }), Some(matrix)) =
        (&node.op, node.input(port::WEIGHT))
    else {
        return;
    };
    if !stack(graph, id).is_some_and(|stack| quantized.contains(&stack)) {
        return;
    }
    let mut operand = graph.value(matrix).name.clone();
    let mut added = Vec::new();
    let mut through = |op: Op, part: &str| {
        let output = names.fresh(&format!("{}_{part}", graph.value(matrix).name));
        let input = std::mem::replace(&mut operand, output.clone());
        let (inputs, outputs) = (vec![Some(input)], vec![Some(output)]);
        added.push(NewNode {
            name: String::new(),
            op,
            regions: Vec::new(),
            inputs,
            outputs,
            source_index: None,
        });
    };
    if graph.constant(matrix).and_then(|tensor| tensor.dtype().ok()) != Some(*dtype) {
        through(Op::standard("Cast", vec![int("to", *dtype as i64)]), "cast");
    }
    if *layout == Layout::OutputInput {
        through(Op::standard("Transpose", vec![ints("perm", &[1, 0])]), "transpose");
    }
    if let Some(weight) = change.add.first_mut().and_then(|product| product.inputs.get_mut(1)) {
        *weight = Some(operand);
    }
    change.add.extend(added);
    change.remove_if_unused.extend(origin.iter().filter_map(|node| node.input(1)));
}
