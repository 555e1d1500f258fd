//! The functions of weights in a form that ONNX Runtime folds at once, with all that is between codes and weight in
//! memory: for layers in the bodies of `If`, `Loop` and `Scan`. Files of November 2026 have it everywhere.

use zqc_ir::onnx::proto::{FunctionProto, NodeProto};
use zqc_ir::op::attribute::{int, int_reference};
use zqc_ir::tensor::DataType;
use zqc_numerics::{Extra, GROUP_SIZE, WeightKind};

use super::dequantize::{codes, of_body, unit_scales};
use super::functions::{constant, node};

/// The function of the weight in terms of the standard operators of version `opset`.
pub(super) fn dequantize(kind: WeightKind, opset: i64) -> FunctionProto {
    of_body(kind, body(kind), opset)
}

fn body(kind: WeightKind) -> Vec<NodeProto> {
    let (mut body, codes) = codes(kind);
    let (scale_nodes, scales) = unit_scales(kind);
    body.push(node("Cast", &[codes], &["values"], vec![int("to", DataType::Float as i64)]));
    body.extend(scale_nodes);
    body.extend([
        node("Shape", &["values"], &["rows"], vec![int("end", 1)]),
        node("Squeeze", &["rows"], &["k"], vec![]),
        constant("zero", int("value_int", 0)),
        constant("one", int("value_int", 1)),
        node("Range", &["zero", "k", "one"], &["row"], vec![]),
        constant("rows_per_group", int_reference("value_int", GROUP_SIZE)),
        node("Div", &["row", "rows_per_group"], &["group"], vec![]),
    ]);
    let mut values = "values";
    if kind.extra == Some(Extra::ZeroPoints) {
        body.extend([
            node("Cast", &["Wz"], &["zero_points"], vec![int("to", DataType::Float as i64)]),
            node("Gather", &["zero_points", "group"], &["zero_point"], vec![]),
            node("Sub", &["values", "zero_point"], &["centred"], vec![]),
        ]);
        values = "centred";
    }
    body.extend([
        node("Gather", &[scales, "group"], &["scale"], vec![]),
        node("Mul", &[values, "scale"], &["W"], vec![]),
    ]);
    body
}
