//! The functions that quantize activations: `QuantizeActivationE4M3`, `QuantizeActivationE5M2` and
//! `QuantizeActivationInt8`.

use zqc_formats::{ActivationFormat, Format, SCALE_FLOOR};
use zqc_ir::onnx::proto::FunctionProto;
use zqc_ir::op::attribute::{float, int, ints};
use zqc_ir::tensor::DataType;

use super::functions::{constant, function, node};

/// The format of the function of this name.
pub(crate) fn parse(function: &str) -> Option<ActivationFormat> {
    ActivationFormat::ALL.into_iter().find(|&format| format.quantize_function() == function)
}

/// The function of a format in terms of the standard operators of version `opset`.
pub(crate) fn definition(format: ActivationFormat, opset: i64) -> FunctionProto {
    match format.float() {
        Some(float) => float_definition(format, float, opset),
        None => integer_definition(format, opset),
    }
}

fn float_definition(format: ActivationFormat, float_format: Format, opset: i64) -> FunctionProto {
    let dtype = zqc_ir::operands::codes_dtype(float_format);
    let body = vec![
        node("Cast", &["X"], &["x"], vec![int("to", DataType::Float as i64)]),
        node("Abs", &["x"], &["magnitude"], vec![]),
        constant("last_axis", ints("value_ints", &[-1])),
        node("ReduceMax", &["magnitude", "last_axis"], &["peak"], vec![int("keepdims", 1)]),
        constant("largest_code", float("value_float", float_format.max())),
        node("Div", &["peak", "largest_code"], &["scale"], vec![]),
        constant("scale_floor", float("value_float", SCALE_FLOOR)),
        node("Max", &["scale", "scale_floor"], &["Xs"], vec![]),
        node("Div", &["x", "Xs"], &["scaled"], vec![]),
        node("Cast", &["scaled"], &["Xq"], vec![int("to", dtype as i64), int("saturate", 1)]),
    ];
    let doc = format!(
        "Token-wise quantization to FP8 {}: X is float [..., K]; Xs is float32 [..., 1], max|X| / {} over the last axis \
         and at least 1e-12; Xq is X / Xs rounded to nearest even, saturating.",
        format.spelling(),
        float_format.max(),
    );
    function(format.quantize_function(), &["X"], format.quantized(), &[], opset, body, doc)
}

fn integer_definition(format: ActivationFormat, opset: i64) -> FunctionProto {
    let body = vec![
        node("Cast", &["X"], &["x"], vec![int("to", DataType::Float as i64)]),
        constant("last_axis", ints("value_ints", &[-1])),
        constant("first_code", float("value_float", 0.0)),
        constant("last_code", float("value_float", u8::MAX.into())),
        node("ReduceMin", &["x", "last_axis"], &["least"], vec![int("keepdims", 1)]),
        node("Min", &["least", "first_code"], &["low"], vec![]),
        node("ReduceMax", &["x", "last_axis"], &["largest"], vec![int("keepdims", 1)]),
        node("Max", &["largest", "first_code"], &["high"], vec![]),
        node("Sub", &["high", "low"], &["range"], vec![]),
        node("Div", &["range", "last_code"], &["scale"], vec![]),
        constant("scale_floor", float("value_float", SCALE_FLOOR)),
        node("Max", &["scale", "scale_floor"], &["Xs"], vec![]),
        node("Neg", &["low"], &["below_zero"], vec![]),
        node("Div", &["below_zero", "Xs"], &["steps_below_zero"], vec![]),
        node("Round", &["steps_below_zero"], &["zero_point"], vec![]),
        node("Cast", &["zero_point"], &["Xz"], vec![int("to", DataType::Uint8 as i64)]),
        node("Div", &["x", "Xs"], &["scaled"], vec![]),
        node("Round", &["scaled"], &["rounded"], vec![]),
        node("Add", &["rounded", "zero_point"], &["from_zero_point"], vec![]),
        node("Clip", &["from_zero_point", "first_code", "last_code"], &["code"], vec![]),
        node("Cast", &["code"], &["Xq"], vec![int("to", DataType::Uint8 as i64)]),
    ];
    let doc = "Token-wise asymmetric quantization to 8-bit integers: X is float [..., K]; with lo = min(0, min X) and \
               hi = max(0, max X) over the last axis, Xs is float32 [..., 1], (hi - lo) / 255 and at least 1e-12; Xz is \
               uint8 [..., 1], -lo / Xs rounded; Xq is uint8, X / Xs rounded plus Xz, clamped. Ties go to even.";
    function(format.quantize_function(), &["X"], format.quantized(), &[], opset, body, doc.to_string())
}
