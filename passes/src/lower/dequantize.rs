//! The functions that turn codes into a float weight: `DequantizeE2M1`, `DequantizeInt4_ZeroPoints` ...

use zqc_ir::onnx::proto::{FunctionProto, NodeProto, TensorProto};
use zqc_ir::op::attribute::{float, int, int_reference, ints, tensor};
use zqc_ir::tensor::DataType;
use zqc_numerics::{Extra, Format, GROUP_SIZE, Ladder, Operand, WeightKind};

use super::functions::{constant, function, node};

/// The function in terms of the standard operators of version `opset`.
pub(super) fn definition(weight: WeightKind, opset: i64) -> FunctionProto {
    let operands: Vec<&str> = weight.operands().map(Operand::name).collect();
    function(weight.dequantize_function(), &operands, &["W"], &[GROUP_SIZE], opset, body(weight), doc(weight))
}

/// Values of codes are computed in units of the least positive one, in which those of 4-bit formats are integers: the
/// tensors that ONNX Runtime makes on its way to the weight, all alive at once, stay small.
fn body(weight: WeightKind) -> Vec<NodeProto> {
    let WeightKind { format, extra } = weight;
    let packed = format.bits() == 4;
    let ladder = weight.ladder();
    let mut body = Vec::new();
    if packed || ladder.is_some() {
        body.extend([
            constant("rows_by_rest", ints("value_ints", &[0, -1])),
            constant("first", ints("value_ints", &[0])),
            constant("columns", ints("value_ints", &[1])),
            node("Shape", &["Ws"], &["n"], vec![int("start", 1)]),
        ]);
    }
    let codes = if packed {
        body.extend(unpack("Wq", "units", integer_pairs(format)));
        "units"
    } else {
        "Wq"
    };
    body.push(node("Cast", &[codes], &["values"], vec![int("to", DataType::Float as i64)]));
    let mut scales = "Ws";
    if let Some(ladder) = ladder {
        body.extend(unpack("We", "factors", factor_pairs(ladder)));
        body.push(node("Mul", &["Ws", "factors"], &["group_scales"], vec![]));
        scales = "group_scales";
    }
    let unit = unit(format);
    if unit != 1.0 {
        body.extend([
            constant("unit", float("value_float", unit)),
            node("Mul", &[scales, "unit"], &["unit_scales"], vec![]),
        ]);
        scales = "unit_scales";
    }
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
    if extra == Some(Extra::ZeroPoints) {
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

fn doc(weight: WeightKind) -> String {
    let WeightKind { format, extra } = weight;
    let name = format.spelling();
    let codes = match format.bits() {
        4 => format!(
            "Wq is uint8 [K, ceil(N / 2)], two {name} codes a byte along N, the first in the low nibble"
        ),
        _ => format!("Wq is {name} [K, N]"),
    };
    let (operands, formula) = match extra {
        None => ("Ws is float32 [G, N]", "value of code [k, n] * Ws[k / group_size, n]"),
        Some(Extra::Shifts(Ladder::Octaves)) => (
            "Ws is float32 [1, N]; We is uint8 [G, ceil(N / 2)], two 4-bit shifts a byte as in Wq",
            "value of code [k, n] * Ws[0, n] * 2^-We[k / group_size, n]",
        ),
        Some(Extra::Shifts(Ladder::Thirds)) => (
            "Ws is float32 [1, N]; We is uint8 [G, ceil(N / 2)], two 4-bit shifts a byte as in Wq, which stand for the \
             factors 3/2, 5/4, 1, 3/4, 5/8, 1/2 ...",
            "value of code [k, n] * Ws[0, n] * factor of We[k / group_size, n]",
        ),
        Some(Extra::ZeroPoints) => (
            "Ws is float32 [G, N]; Wz is int8 [G, N]",
            "(value of code [k, n] - Wz[k / group_size, n]) * Ws[k / group_size, n]",
        ),
    };
    let values = match format {
        Format::E2M1 | Format::E3M0 => {
            let values: Vec<_> = format.codebook()[..8].iter().map(f32::to_string).collect();
            format!(" The values of the codes 0 to 15 are {} and their negatives.", values.join(", "))
        }
        Format::Int4 => " The codes are in two's complement, -8 to 7.".to_string(),
        Format::E4M3 | Format::E5M2 | Format::Int8 => String::new(),
    };
    format!(
        "The float32 weight W [K, N] of {name} codes, in G = ceil(K / group_size) groups. {codes}; {operands}: \
         W[k, n] = {formula}.{values}"
    )
}

/// What values of codes are counted in: the least positive value of a 4-bit format, else 1.
fn unit(format: Format) -> f32 {
    match format {
        Format::E2M1 => 0.5,
        Format::E3M0 => 0.25,
        Format::E4M3 | Format::E5M2 | Format::Int4 | Format::Int8 => 1.0,
    }
}

/// For every byte the values of its two codes, in units.
fn integer_pairs(format: Format) -> TensorProto {
    let values = format.codebook().into_iter().map(|value| (value / unit(format)) as i8 as u8);
    pairs(DataType::Int8, &values.map(|value| [value]).collect::<Vec<_>>())
}

/// For every byte the factors that its two shifts stand for.
fn factor_pairs(ladder: Ladder) -> TensorProto {
    let factors: Vec<[u8; 4]> = (0..16).map(|shift| ladder.factor(shift).to_le_bytes()).collect();
    pairs(DataType::Float, &factors)
}

/// For every byte the two entries of `table` that its nibbles choose, the low one first: `[256, 2]`.
fn pairs<const SIZE: usize>(dtype: DataType, table: &[[u8; SIZE]]) -> TensorProto {
    let nibbles = (0..=u8::MAX).flat_map(|byte| [byte & 0xF, byte >> 4]);
    let entries: Vec<u8> = nibbles.flat_map(|nibble| table[usize::from(nibble)]).collect();
    TensorProto {
        dims: vec![256, 2],
        data_type: Some(dtype as i32),
        raw_data: Some(entries.into()),
        ..Default::default()
    }
}

/// Nodes that turn the matrix `packed`, two nibbles a byte along the `n` columns, into the entries of `pairs`: one `Gather`
/// unpacks a byte.
fn unpack(packed: &str, unpacked: &str, pairs: TensorProto) -> [NodeProto; 5] {
    let name = |what: &str| format!("{unpacked}_{what}");
    let [table, bytes, twos, padded] = ["pairs", "bytes", "by_two", "padded"].map(name);
    [
        constant(&table, tensor("value", pairs)),
        node("Cast", &[packed], &[&bytes], vec![int("to", DataType::Int32 as i64)]),
        node("Gather", &[&table, &bytes], &[&twos], vec![]),
        node("Reshape", &[&twos, "rows_by_rest"], &[&padded], vec![]),
        node("Slice", &[&padded, "first", "n", "columns"], &[unpacked], vec![]),
    ]
}
