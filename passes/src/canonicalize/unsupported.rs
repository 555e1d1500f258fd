//! Products with a constant matrix that are no linear layers of ours: somebody quantized or fused them before, or they are
//! written in a form that is not compiled yet.

use zqc_ir::onnx::proto::{FunctionProto, NodeProto};
use zqc_ir::op::is_standard;
use zqc_ir::tensor::name;
use zqc_ir::{Graph, Model, Node, NodeId, Op, ValueId};

use crate::attention::PackedAttention;
use crate::constant_view::{ConstantView, VIEWS, is_float, root};
use crate::contrib::MICROSOFT;
use crate::dequantized::Dequantized;
use crate::einsum::EinsumProduct;
use crate::expert_stack::ExpertStack;
use crate::folded::Folded;
use crate::fused::FusedLayer;
use crate::mixture::Mixture;
use crate::nbits::NBits;
use crate::select::{MIN_ELEMENTS, too_small};

/// What a user can do about a quantized matrix.
const WAY_OUT: &str = "; --requantize quantizes it again";

/// Operators on quantized matrices: domain (empty for the standard one), type, and the input that is the matrix.
const QUANTIZED: [(&str, &str, usize); 12] = [
    ("", "ConvInteger", 1),
    ("", "MatMulInteger", 1),
    ("", "QLinearConv", 3),
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
const FUSED: [(&str, &str, usize); 5] = [
    (MICROSOFT, "DecoderAttention", 2),
    (MICROSOFT, "FusedMatMul", 1),
    (MICROSOFT, "LongformerAttention", 1),
    (MICROSOFT, "PackedAttention", 1),
    (MICROSOFT, "TransposeMatMul", 1),
];

/// Standard operators on matrices, the second inputs, that are no linear layers.
const OTHERS: [&str; 5] = ["ConvTranspose", "DeformConv", "GRU", "LSTM", "RNN"];

/// Operators of other domains whose constants are tables: embeddings, positions and masks.
const TABLES: [&str; 9] = [
    "EmbedLayerNormalization",
    "GatedRelativePositionBias",
    "GemmaRotaryEmbedding",
    "GroupQueryAttention",
    "MRotaryEmbedding",
    "MultiHeadAttention",
    "PagedAttention",
    "RelativePositionBias",
    "RotaryEmbedding",
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
        let way_out = if NBits::of(graph, id).is_some() { WAY_OUT } else { "" };
        return Some((matrix, format!("its weight is already quantized, for {}{way_out}", proto.op_type())));
    }
    if let Some(matrix) = input(&FUSED) {
        let reason = "was fused by ONNX Runtime's optimizer; compile the model as it was before";
        return Some((matrix, format!("{} {reason}", proto.op_type())));
    }
    let attention = PackedAttention::of(graph, id).and_then(Result::err);
    let fused = || FusedLayer::of(graph, id)?.err();
    if let Some(obstacle) = attention.or_else(|| Mixture::of(model, id)?.err()).or_else(fused) {
        return Some(obstacle);
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

/// The constant matrix of all else, and why no layer is made of it: a product with a matrix that is made of constants by
/// operators that no layer is seen through, another operator on a matrix, or an unknown one.
pub(super) fn other(model: &Model, id: NodeId, folded: &Folded) -> Option<(ValueId, String)> {
    let graph = &model.graph;
    let node = graph.node(id);
    let Op::Onnx(proto) = &node.op else { return None };
    let weight = |value: ValueId| {
        let (matrix, elements) = folded.weight_behind(value)?;
        (elements >= MIN_ELEMENTS).then_some(matrix)
    };
    if !is_standard(proto.domain()) {
        let calls = |function: &FunctionProto| {
            (function.domain(), function.name()) == (proto.domain(), proto.op_type())
        };
        let is_layer = matches!(PackedAttention::of(graph, id), Some(Ok(_)))
            || matches!(Mixture::of(model, id), Some(Ok(_)))
            || matches!(FusedLayer::of(graph, id), Some(Ok(_)));
        let is_made_of_constants = node.inputs().iter().flatten().all(|&value| folded.contains(value));
        let is_other = TABLES.contains(&proto.op_type()) || model.header.functions.iter().any(calls);
        if is_layer || is_made_of_constants || is_other {
            return None;
        }
        let matrix = node.inputs().iter().flatten().find_map(|&value| weight(value))?;
        return Some((matrix, format!("it is an operand of {}, which zqc does not know", qualified(proto))));
    }
    if OTHERS.contains(&proto.op_type()) {
        let matrix = weight(node.input(1)?)?;
        return Some((matrix, format!("{} is no linear layer", proto.op_type())));
    }
    let [x, port] = match proto.op_type() {
        "MatMul" | "Gemm" | "Conv" if node.input(1).is_some_and(|value| folded.contains(value)) => [0, 1],
        "MatMul" | "Gemm" => [1, 0],
        _ => return None,
    };
    let (x, operand) = (node.input(x)?, node.input(port)?);
    let matrix = weight(operand).filter(|_| !folded.contains(x) && ExpertStack::of(model, id).is_none())?;
    let maker = graph.producer(behind(graph, operand, &VIEWS)).map(|maker| &graph.node(maker).op);
    let reason = match maker {
        Some(Op::Onnx(maker)) if maker.op_type() != "Constant" => match is_standard(maker.domain()) {
            true => format!("its weight is computed from constants, by {}", maker.op_type()),
            false => format!("its weight comes from {}, which zqc does not know", qualified(maker)),
        },
        _ => {
            let dims = graph.literal(matrix)?.dims().to_vec();
            match proto.op_type() {
                "Conv" if proto.int_or("group", 1) != 1 => {
                    format!("its Conv has {} groups", proto.int_or("group", 1))
                }
                "Conv" => format!("its Conv has a window of {:?}", dims.get(2..).unwrap_or_default()),
                kind => format!("its {kind} has a weight of dimensions {dims:?}"),
            }
        }
    };
    Some((matrix, reason))
}

/// An operator of another domain than the standard one.
fn qualified(node: &NodeProto) -> String {
    format!("{}::{}", node.domain(), node.op_type())
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
        let obstacle = match node.op.kind() {
            "Gemm" => "and it adds its third",
            _ => "and how many dimensions the right one has is not known",
        };
        (view.root, format!("its weight is the left operand of its {}, {obstacle}", node.op.kind()))
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
        let way_out = if is_known { WAY_OUT } else { "" };
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
    let of_vector = view.dims.len() == 3 && graph.ty(node.input(0)?).rank() == Some(1);
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
