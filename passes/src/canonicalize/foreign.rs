//! Products with a constant matrix that are no linear layers of ours: somebody quantized or fused them before, or they are
//! written in a form that is not compiled yet.

use zqc_ir::tensor::name;
use zqc_ir::{Graph, Model, Node, NodeId, Op, ValueId};

use crate::constant_view::{ConstantView, VIEWS, is_float, root};
use crate::dequantized::Dequantized;
use crate::einsum::EinsumProduct;
use crate::expert_stack::ExpertStack;
use crate::rank::rank;
use crate::select::too_small;

const MICROSOFT: &str = "com.microsoft";

/// Operators on quantized matrices: domain (empty for the standard one), type, and the input that is the matrix.
const QUANTIZED: [(&str, &str, usize); 10] = [
    ("", "MatMulInteger", 1),
    ("", "QLinearMatMul", 3),
    (MICROSOFT, "MatMulNBits", 1),
    (MICROSOFT, "MatMulBnb4", 1),
    (MICROSOFT, "MatMulFpQ4", 1),
    (MICROSOFT, "MatMulIntegerToFloat", 1),
    (MICROSOFT, "DynamicQuantizeMatMul", 1),
    (MICROSOFT, "QGemm", 3),
    (MICROSOFT, "QAttention", 1),
    (MICROSOFT, "QMoE", 2),
];

/// Operators that ONNX Runtime's optimizer makes of products and what surrounds them.
const FUSED: [(&str, &str, usize); 6] = [
    (MICROSOFT, "FusedMatMul", 1),
    (MICROSOFT, "TransposeMatMul", 1),
    (MICROSOFT, "FusedGemm", 1),
    (MICROSOFT, "GemmFastGelu", 1),
    (MICROSOFT, "Attention", 1),
    (MICROSOFT, "MoE", 2),
];

/// The constant matrix of such a product, and why the product stays as it is; `None` for all other nodes, stacks of experts
/// among them.
pub(super) fn reason(model: &Model, id: NodeId) -> Option<(ValueId, String)> {
    let graph = &model.graph;
    let node = graph.node(id);
    let Op::Onnx(proto) = &node.op else { return None };
    let constant = |value: ValueId| Some(root(graph, value)).filter(|&value| graph.literal(value).is_some());
    let input = |table: &[(&str, &str, usize)]| {
        let found = table.iter().find(|(domain, op_type, _)| match *domain {
            "" => node.op.as_standard(op_type).is_some(),
            domain => proto.domain() == domain && proto.op_type() == *op_type,
        });
        found.and_then(|&(_, _, port)| constant(node.input(port)?))
    };
    if let Some(matrix) = input(&QUANTIZED) {
        return Some((matrix, format!("its weight is already quantized, for {}", proto.op_type())));
    }
    if let Some(matrix) = input(&FUSED) {
        let reason = "was fused by ONNX Runtime's optimizer; compile the model as it was before";
        return Some((matrix, format!("{} {reason}", proto.op_type())));
    }
    let is = |op_type| node.op.as_standard(op_type).is_some();
    if is("Einsum") {
        return overridable(graph, node, &[0, 1]).or_else(|| einsum(graph, id));
    }
    if is("Conv") {
        return overridable(graph, node, &[1]);
    }
    if !is("MatMul") && !is("Gemm") {
        return None;
    }
    let is_expert_stack = ExpertStack::of(model, id).is_some();
    let chosen = || chosen(graph, node).filter(|_| !is_expert_stack);
    let reason = overridable(graph, node, &[0, 1]).or_else(|| dequantized(graph, node));
    let reason = reason.or_else(|| stack(graph, node)).or_else(chosen);
    reason.or_else(|| left(graph, node).filter(|_| !is_expert_stack))
}

/// A product with a float matrix that is an input with a default, at one of these ports.
fn overridable(graph: &Graph, node: &Node, ports: &[usize]) -> Option<(ValueId, String)> {
    ports.iter().find_map(|&port| {
        let matrix = behind(graph, node.input(port)?, &VIEWS);
        let default = graph.default_of(matrix)?;
        let reason = || {
            "its weight is an input with a default, which a caller may override; take it out of the graph's inputs to \
             have it quantized"
                .to_string()
        };
        (default.dims().len() > 1 && default.dtype().is_ok_and(is_float)).then(|| (matrix, reason()))
    })
}

/// A product with a constant float matrix on the left: what it multiplies lies in columns.
fn left(graph: &Graph, node: &Node) -> Option<(ValueId, String)> {
    let view = ConstantView::of(graph, node.input(0)?).filter(|view| is_float(view.dtype))?;
    let computed = graph.literal(root(graph, node.input(1)?)).is_none();
    let [.., rows, columns] = view.dims[..] else { return None };
    let (n, k) = (usize::try_from(rows).ok()?, usize::try_from(columns).ok()?);
    (computed && too_small(k, n).is_none()).then(|| {
        let kind = node.op.kind();
        (view.root, format!("its weight is the left operand of its {kind}, that of a layer is the right one"))
    })
}

/// A product with a matrix behind `DequantizeLinear`.
fn dequantized(graph: &Graph, node: &Node) -> Option<(ValueId, String)> {
    let weight = behind(graph, node.input(1)?, &["Identity", "Transpose"]);
    let dequantize = graph.node(graph.producer(weight)?);
    let Op::Onnx(proto) = &dequantize.op else { return None };
    let matrix = root(graph, dequantize.input(0)?);
    let dtype = graph.literal(matrix)?.dtype().ok()?;
    (proto.op_type() == "DequantizeLinear").then(|| {
        let is_known = Dequantized::of(graph, weight).is_some();
        let way_out = if is_known { "; --requantize quantizes it again" } else { "" };
        (matrix, format!("its weight is already quantized: {} behind DequantizeLinear{way_out}", name(dtype)))
    })
}

/// An `Einsum` with a constant float matrix that is no linear layer.
fn einsum(graph: &Graph, id: NodeId) -> Option<(ValueId, String)> {
    let is_layer = EinsumProduct::of(graph, id).is_some();
    let matrix = |operand: &ValueId| {
        let view = ConstantView::of(graph, *operand)?;
        (is_float(view.dtype) && view.dims.len() > 1).then_some(view.root)
    };
    let weight = graph.node(id).inputs().iter().flatten().find_map(matrix).filter(|_| !is_layer)?;
    Some((weight, "its Einsum is no product of rows with a matrix".to_string()))
}

/// A product with a constant of more dimensions than a stack of experts has, or of a vector with such a stack.
fn stack(graph: &Graph, node: &Node) -> Option<(ValueId, String)> {
    let view = ConstantView::of(graph, node.input(1)?).filter(|view| is_float(view.dtype))?;
    let activation = graph.literal(root(graph, node.input(0)?)).is_none();
    let of_vector = view.dims.len() == 3 && rank(graph, node.input(0)?) == Some(1);
    let of_what = if of_vector { ", and its activation a vector" } else { "" };
    (activation && (of_vector || view.dims.len() > 3))
        .then(|| (view.root, format!("its weight is a stack of matrices, {:?}{of_what}", view.dims)))
}

/// A product with a matrix that is looked up, as a mixture of experts may do.
fn chosen(graph: &Graph, node: &Node) -> Option<(ValueId, String)> {
    let sides = node.inputs().iter().take(2).flatten();
    sides.into_iter().find_map(|&side| {
        let gather = graph.node(graph.producer(behind(graph, side, &VIEWS))?);
        let looks_up = |op_type| gather.op.as_standard(op_type).is_some();
        let matrices = root(graph, gather.input(0).filter(|_| looks_up("Gather") || looks_up("GatherND"))?);
        let dims = graph.literal(matrices)?.dims().to_vec();
        let reason = || format!("its matrix is chosen while the model runs, from the stack {dims:?}");
        (dims.len() > 2).then(|| (matrices, reason()))
    })
}

/// Where `value` comes from through these standard operators.
fn behind(graph: &Graph, mut value: ValueId, operators: &[&str]) -> ValueId {
    while let Some(producer) = graph.producer(value)
        && operators.iter().any(|op_type| graph.node(producer).op.as_standard(op_type).is_some())
        && let Some(input) = graph.node(producer).input(0)
    {
        value = input;
    }
    value
}
