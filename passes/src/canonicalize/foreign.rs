//! Products with a constant matrix that are no linear layers of ours: somebody quantized or fused them before.

use zqc_ir::tensor::name;
use zqc_ir::{Graph, Node, Op, ValueId};

use crate::constant_view::root;

const MICROSOFT: &str = "com.microsoft";

/// Operators on quantized matrices: domain (empty for the standard one), type, and the input that is the matrix.
const QUANTIZED: [(&str, &str, usize); 9] = [
    ("", "MatMulInteger", 1),
    ("", "QLinearMatMul", 3),
    (MICROSOFT, "MatMulNBits", 1),
    (MICROSOFT, "MatMulBnb4", 1),
    (MICROSOFT, "MatMulFpQ4", 1),
    (MICROSOFT, "MatMulIntegerToFloat", 1),
    (MICROSOFT, "DynamicQuantizeMatMul", 1),
    (MICROSOFT, "QGemm", 3),
    (MICROSOFT, "QAttention", 1),
];

/// Operators that ONNX Runtime's optimizer makes of products and what surrounds them.
const FUSED: [(&str, &str, usize); 5] = [
    (MICROSOFT, "FusedMatMul", 1),
    (MICROSOFT, "TransposeMatMul", 1),
    (MICROSOFT, "FusedGemm", 1),
    (MICROSOFT, "GemmFastGelu", 1),
    (MICROSOFT, "Attention", 1),
];

/// The constant matrix of such a product, and why the product stays as it is; `None` for all other nodes.
pub(super) fn reason(graph: &Graph, node: &Node) -> Option<(ValueId, String)> {
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
    let product = ["MatMul", "Gemm"].iter().any(|op_type| node.op.as_standard(op_type).is_some());
    let dequantize = graph.node(graph.producer(root_of_views(graph, node.input(1)?))?);
    let Op::Onnx(proto) = &dequantize.op else { return None };
    let matrix = constant(dequantize.input(0)?)?;
    let dtype = graph.literal(matrix)?.dtype().ok()?;
    (product && proto.op_type() == "DequantizeLinear").then(|| {
        (matrix, format!("its weight is already quantized: {} behind DequantizeLinear", name(dtype)))
    })
}

/// What `value` is a copy or a transpose of.
fn root_of_views(graph: &Graph, value: ValueId) -> ValueId {
    let mut value = graph.resolve_identity(value);
    while let Some(producer) = graph.producer(value)
        && graph.node(producer).op.as_standard("Transpose").is_some()
        && let Some(input) = graph.node(producer).input(0)
    {
        value = graph.resolve_identity(input);
    }
    value
}
