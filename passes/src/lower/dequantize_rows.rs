//! The functions that turn codes into float rows: `DequantizeInt8_TransB`, `DequantizeE2M1_Thirds_TransB` ... of a whole table,
//! and of the rows that are looked up in it.

use zqc_ir::onnx::proto::{FunctionProto, NodeProto, TensorProto};
use zqc_ir::op::attribute::{float, int, int_reference, ints, tensor};
use zqc_ir::tensor::DataType;
use zqc_numerics::{Extra, Format, GROUP_SIZE, Ladder, Operand, WeightKind};

use super::dequantize::{factor_pairs, integer_pairs, unit};
use super::functions::{constant, function, node};

/// The function in terms of the standard operators of version `opset`.
pub(super) fn definition(kind: WeightKind, opset: i64) -> FunctionProto {
    let operands: Vec<&str> = kind.operands().map(Operand::name).collect();
    let body = match kind.format.bits() {
        4 => body_of_nibbles(kind),
        _ if kind.format.is_integer() => vec![
            node("Cast", &["Wq"], &["values"], vec![int("to", DataType::Float as i64)]),
            node("Mul", &["values", "Ws"], &["W"], vec![]),
        ],
        _ => body_of_bytes(kind.format),
    };
    let name = kind.dequantize_rows_function();
    function(name, &operands, &["W"], &[GROUP_SIZE], opset, body, doc(kind))
}

/// A byte chooses its value in the codebook: ONNX's `Gather` knows no FP8, so the codes are in no type that could be cast.
fn body_of_bytes(format: Format) -> Vec<NodeProto> {
    let codebook: Vec<u8> = format.codebook().iter().flat_map(|value| value.to_le_bytes()).collect();
    let codebook = TensorProto {
        dims: vec![256],
        data_type: Some(DataType::Float as i32),
        raw_data: Some(codebook.into()),
        ..Default::default()
    };
    vec![
        constant("codebook", tensor("value", codebook)),
        node("Cast", &["Wq"], &["bytes"], vec![int("to", DataType::Int32 as i64)]),
        node("Gather", &["codebook", "bytes"], &["values"], vec![]),
        node("Mul", &["values", "Ws"], &["W"], vec![]),
    ]
}

/// A byte chooses two values, and a byte of shifts two factors. A row has an even number of codes; of its factors, one more
/// than there are groups is never chosen.
fn body_of_nibbles(kind: WeightKind) -> Vec<NodeProto> {
    let mut body = vec![constant("two", ints("value_ints", &[2]))];
    body.extend(unpack("Wq", "units", integer_pairs(kind.format)));
    body.push(node("Cast", &["units"], &["values"], vec![int("to", DataType::Float as i64)]));
    let mut scales = "Ws";
    if let Some(ladder) = kind.ladder() {
        body.extend(unpack("We", "factors", factor_pairs(ladder)));
        body.push(node("Mul", &["Ws", "factors"], &["group_scales"], vec![]));
        scales = "group_scales";
    }
    body.extend([
        constant("unit", float("value_float", unit(kind.format))),
        node("Mul", &[scales, "unit"], &["unit_scales"], vec![]),
        node("Squeeze", &["units_columns"], &["k"], vec![]),
        constant("zero", int("value_int", 0)),
        constant("one", int("value_int", 1)),
        node("Range", &["zero", "k", "one"], &["column"], vec![]),
        constant("columns_per_group", int_reference("value_int", GROUP_SIZE)),
        node("Div", &["column", "columns_per_group"], &["group"], vec![]),
        node("Gather", &["unit_scales", "group"], &["scale"], vec![int("axis", -1)]),
        node("Mul", &["values", "scale"], &["W"], vec![]),
    ]);
    body
}

/// Nodes that turn the rows `packed`, two nibbles a byte, into the entries of `pairs`.
fn unpack(packed: &str, unpacked: &str, pairs: TensorProto) -> [NodeProto; 8] {
    let name = |what: &str| format!("{unpacked}_{what}");
    let [table, bytes, twos, places] = ["pairs", "bytes", "by_two", "places"].map(name);
    let [row, columns, shape] = ["row_bytes", "columns", "shape"].map(name);
    [
        constant(&table, tensor("value", pairs)),
        node("Cast", &[packed], &[&bytes], vec![int("to", DataType::Int32 as i64)]),
        node("Gather", &[&table, &bytes], &[&twos], vec![]),
        node("Shape", &[packed], &[&places], vec![int("end", -1)]),
        node("Shape", &[packed], &[&row], vec![int("start", -1)]),
        node("Mul", &[&row, "two"], &[&columns], vec![]),
        node("Concat", &[&places, &columns], &[&shape], vec![int("axis", 0)]),
        node("Reshape", &[&twos, &shape], &[unpacked], vec![]),
    ]
}

fn doc(kind: WeightKind) -> String {
    let name = kind.format.spelling();
    if kind.format.bits() == 8 {
        let codes =
            if kind.format.is_integer() { "int8 [..., K]" } else { "uint8 [..., K], the bits of the codes" };
        return format!(
            "The float32 rows W [..., K] of {name} codes. Wq is {codes}; Ws is float32 [..., 1], a scale a row: \
             W[..., k] = value of code [..., k] * Ws[..., 0]."
        );
    }
    let (operands, formula) = match kind.extra {
        Some(Extra::Shifts(ladder)) => (
            "Ws is float32 [..., 1]; We is uint8 [..., ceil(G / 2)], two 4-bit shifts a byte as in Wq",
            match ladder {
                Ladder::Octaves => "Ws[..., 0] * 2^-We[..., k / group_size]",
                Ladder::Thirds => {
                    "Ws[..., 0] * factor of We[..., k / group_size], of 3/2, 5/4, 1, 3/4, 5/8, 1/2 ..."
                }
            },
        ),
        _ => ("Ws is float32 [..., G]", "Ws[..., k / group_size]"),
    };
    format!(
        "The float32 rows W [..., K] of {name} codes, K even, in G = ceil(K / group_size) groups. Wq is uint8 [..., K / 2], two \
         codes a byte, the first in the low nibble; {operands}: W[..., k] = value of code [..., k] * {formula}. The codes are \
         those of Dequantize{name}."
    )
}
