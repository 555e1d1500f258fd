//! The functions that turn codes into float rows, `DequantizeInt8_TransB` and `DequantizeE4M3_TransB`: of a whole table, and of
//! the rows that are looked up in it.

use zqc_formats::{Format, GROUP_SIZE, Operand, WeightKind};
use zqc_ir::onnx::proto::{FunctionProto, NodeProto, TensorProto};
use zqc_ir::op::attribute::{int, tensor};
use zqc_ir::tensor::DataType;

use super::functions::{constant, function, node};

/// The function in terms of the standard operators of version `opset`.
pub(super) fn definition(kind: WeightKind, opset: i64) -> FunctionProto {
    let operands: Vec<&str> = kind.operands().map(Operand::name).collect();
    let name = kind.dequantize_rows_function();
    function(name, &operands, &["W"], &[GROUP_SIZE], opset, body(kind.format), doc(kind.format))
}

fn body(format: Format) -> Vec<NodeProto> {
    let cast = |to: &str, dtype| node("Cast", &["Wq"], &[to], vec![int("to", dtype as i64)]);
    let mut body = match format.is_integer() {
        true => vec![cast("values", DataType::Float)],
        // ONNX's `Gather` knows no FP8: the codes are bytes, and choose their values in the codebook.
        false => vec![
            constant("codebook", tensor("value", codebook(format))),
            cast("bytes", DataType::Int32),
            node("Gather", &["codebook", "bytes"], &["values"], vec![]),
        ],
    };
    body.push(node("Mul", &["values", "Ws"], &["W"], vec![]));
    body
}

/// The value of every code.
fn codebook(format: Format) -> TensorProto {
    let values: Vec<u8> = format.codebook().iter().flat_map(|value| value.to_le_bytes()).collect();
    TensorProto {
        dims: vec![256],
        data_type: Some(DataType::Float as i32),
        raw_data: Some(values.into()),
        ..Default::default()
    }
}

fn doc(format: Format) -> String {
    let codes = match format.is_integer() {
        true => "int8 [..., K]",
        false => "uint8 [..., K], the bits of the codes",
    };
    format!(
        "The float32 rows W [..., K] of {} codes, each row one group. Wq is {codes}; Ws is float32 [..., 1]: \
         W[..., k] = value of code [..., k] * Ws[..., 0].",
        format.spelling()
    )
}
