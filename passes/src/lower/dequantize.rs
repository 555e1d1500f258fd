//! The functions that turn codes into a float weight: `DequantizeE2M1`, `DequantizeInt4_ZeroPoints` ...

use zqc_formats::{Extra, Format, GROUP_SIZE, Ladder, Operand, WeightKind};
use zqc_ir::onnx::proto::{FunctionProto, NodeProto, TensorProto};
use zqc_ir::op::attribute::{int, int_reference, ints, tensor};
use zqc_ir::tensor::DataType;

use super::at_once;
use super::folding::{Folding, TURN, in_turn};
use super::functions::{constant, function, node};

/// The function in terms of the standard operators of version `opset`.
pub(super) fn definition(weight: WeightKind, folding: Folding, opset: i64) -> FunctionProto {
    let (attributes, body) = match folding {
        Folding::AtOnce => (vec![GROUP_SIZE], at_once::body(weight)),
        Folding::InTurns { odd } => (vec![GROUP_SIZE, TURN], body(weight, odd)),
    };
    let operands: Vec<&str> = weight.operands().map(Operand::name).collect();
    function(weight.dequantize_function(), &operands, &["W"], &attributes, opset, body, doc(weight))
}

/// As few bytes as can be lie between codes and weight. A byte of two codes chooses both values, `[..., ceil(N / 2), 2]`; where
/// some N is `odd`, one of the last two goes in the end. Rows come in blocks that share their scales: groups where all of
/// them are whole, else single rows.
fn body(weight: WeightKind, odd: bool) -> Vec<NodeProto> {
    let packed = weight.format.bits() == 4;
    let odd = odd && packed;
    let mut body = vec![
        constant("zero", int("value_int", 0)),
        constant("one", int("value_int", 1)),
        constant("one_row", ints("value_ints", &[1])),
        constant("rest", ints("value_ints", &[-1])),
        constant("rows_per_group", int_reference("value_int", GROUP_SIZE)),
        node("Shape", &["Wq"], &["rows"], vec![int("end", 1)]),
        node("Squeeze", &["rows"], &["k"], vec![]),
        node("Mod", &["k", "rows_per_group"], &["rows_of_short_group"], vec![]),
        node("Cast", &["rows_of_short_group"], &["has_short_group"], vec![int("to", DataType::Bool as i64)]),
        node("Where", &["has_short_group", "one", "rows_per_group"], &["rows_per_block"], vec![]),
        node("Range", &["zero", "k", "rows_per_block"], &["first_row"], vec![]),
        node("Div", &["first_row", "rows_per_group"], &["group"], vec![]),
        node("Reshape", &["rows_per_block", "rest"], &["block_rows"], vec![]),
        node("Shape", &["Wq"], &["columns"], vec![int("start", 1)]),
        concat(&["rest", "block_rows", "columns"], "by_block_at_once"),
    ];
    body.extend(in_turn("by_block_at_once", "by_block"));
    let stepped = weight.ladder() == Some(Ladder::M8);
    if !stepped {
        body.extend(values(weight.format));
    }
    match packed {
        true => body.extend([
            constant("codes_per_byte", ints("value_ints", &[2])),
            concat(&["rest", "one_row", "columns", "codes_per_byte"], "by_group"),
        ]),
        false => body.push(concat(&["rest", "one_row", "columns"], "by_group")),
    }
    if odd {
        body.extend([
            node("Shape", &["Ws"], &["n"], vec![int("start", 1)]),
            node("Mul", &["columns", "codes_per_byte"], &["codes_per_row"], vec![]),
            node("Sub", &["codes_per_row", "n"], &["beyond_n"], vec![]),
            constant("nowhere_else", ints("value_ints", &[0, 0, 0])),
            concat(&["nowhere_else", "beyond_n"], "padding"),
        ]);
    }
    let mut values = "values";
    if weight.extra == Some(Extra::ZeroPoints) {
        body.push(cast("Wz", "zero_points_of_columns", DataType::Float));
        body.extend(by_group("zero_points_of_columns", "zero_points", odd));
        body.extend([
            node("Gather", &["zero_points", "group"], &["block_zero_points"], vec![]),
            node("Sub", &["values", "block_zero_points"], &["centred"], vec![]),
        ]);
        values = "centred";
    }
    body.extend(by_group("Ws", "scales", odd));
    let (mut scales, mut block_scales) = ("scales", "block_scales");
    if stepped {
        body.extend(stepped_values(weight.format));
        block_scales = "scales";
    } else if let Some(ladder) = weight.ladder() {
        body.extend(look_up("We", "shift_factors", factor_pairs(ladder)));
        body.extend([
            node("Reshape", &["shift_factors", "by_group"], &["factors"], vec![]),
            node("Mul", &["scales", "factors"], &["group_scales"], vec![]),
        ]);
        scales = "group_scales";
    }
    let w = if odd { "padded" } else { "W" };
    if !stepped {
        body.push(node("Gather", &[scales, "group"], &[block_scales], vec![]));
    }
    body.extend([
        node("Mul", &[values, block_scales], &["scaled"], vec![]),
        concat(&["rows", "rest"], "by_row"),
        node("Reshape", &["scaled", "by_row"], &[w], vec![]),
    ]);
    if odd {
        body.extend([
            constant("first", ints("value_ints", &[0])),
            node("Slice", &["padded", "first", "n", "one_row"], &["W"], vec![]),
        ]);
    }
    body
}

/// Nodes that yield the values of the codes, block by block: the shape of the blocks is what the codes wait for.
fn values(format: Format) -> Vec<NodeProto> {
    let reshape = |from: &str, to: &str| node("Reshape", &[from, "by_block"], &[to], vec![]);
    match format.bits() {
        4 => {
            let mut nodes = vec![reshape("Wq", "codes")];
            nodes.extend(look_up("codes", "values", value_pairs(format)));
            nodes
        }
        _ if format.is_integer() => vec![reshape("Wq", "codes"), cast("codes", "values", DataType::Float)],
        // ONNX Runtime reshapes no FP8.
        _ => vec![cast("Wq", "floats", DataType::Float), reshape("floats", "values")],
    }
}

/// Nodes that yield the values of the codes under [`Ladder::M8`], block by block: code and step choose one of 256.
fn stepped_values(format: Format) -> Vec<NodeProto> {
    let mut nodes = vec![node("Reshape", &["Wq", "by_block"], &["codes"], vec![])];
    nodes.extend(look_up("codes", "columns_of_values", integer_pairs(1)));
    nodes.extend(look_up("We", "steps_of_columns", integer_pairs(16)));
    nodes.extend([
        node("Reshape", &["steps_of_columns", "by_group"], &["steps"], vec![]),
        node("Gather", &["steps", "group"], &["block_steps"], vec![]),
        node("Add", &["block_steps", "columns_of_values"], &["entries"], vec![]),
        constant("values_of_steps", tensor("value", step_table(format))),
        node("Gather", &["values_of_steps", "entries"], &["values"], vec![]),
    ]);
    nodes
}

/// Nodes that bring an operand with a row for each group, `[G, N]`, to the form of the values, a block of one row for each.
fn by_group(operand: &str, output: &str, odd: bool) -> Vec<NodeProto> {
    let padded = format!("{output}_padded");
    match odd {
        true => vec![
            node("Pad", &[operand, "padding"], &[&padded], vec![]),
            node("Reshape", &[&padded, "by_group"], &[output], vec![]),
        ],
        false => vec![node("Reshape", &[operand, "by_group"], &[output], vec![])],
    }
}

fn cast(from: &str, to: &str, dtype: DataType) -> NodeProto {
    node("Cast", &[from], &[to], vec![int("to", dtype as i64)])
}

fn concat(parts: &[&str], output: &str) -> NodeProto {
    node("Concat", parts, &[output], vec![int("axis", 0)])
}

/// Nodes that yield the two entries of `pairs` that every byte chooses, in a last dimension of their own.
fn look_up(bytes: &str, output: &str, pairs: TensorProto) -> [NodeProto; 3] {
    let [table, indices] = ["pairs", "bytes"].map(|what| format!("{output}_{what}"));
    [
        constant(&table, tensor("value", pairs)),
        cast(bytes, &indices, DataType::Int32),
        node("Gather", &[&table, &indices], &[output], vec![]),
    ]
}

/// For every byte the values of its two codes.
pub(super) fn value_pairs(format: Format) -> TensorProto {
    pairs(DataType::Float, &format.codebook().into_iter().map(f32::to_le_bytes).collect::<Vec<_>>())
}

/// For every byte the factors that its two shifts stand for.
pub(super) fn factor_pairs(ladder: Ladder) -> TensorProto {
    let factors: Vec<[u8; 4]> = (0..16).map(|shift| ladder.factor(shift).to_le_bytes()).collect();
    pairs(DataType::Float, &factors)
}

/// For every byte `unit` times its two nibbles, as int32.
pub(super) fn integer_pairs(unit: i32) -> TensorProto {
    let multiples: Vec<[u8; 4]> = (0..16).map(|nibble| (unit * nibble).to_le_bytes()).collect();
    pairs(DataType::Int32, &multiples)
}

/// The values of the codes of a format at every step of [`Ladder::M8`], `[16 * 16]`, those of a step side by side.
pub(super) fn step_table(format: Format) -> TensorProto {
    let codebook = format.codebook();
    let values = (0..16)
        .flat_map(|step| codebook.iter().map(move |&value| Ladder::M8.apply(value, step).to_le_bytes()));
    TensorProto {
        dims: vec![256],
        data_type: Some(DataType::Float as i32),
        raw_data: Some(values.flatten().collect::<Vec<u8>>().into()),
        ..Default::default()
    }
}

/// For every byte the two entries of `table` that its nibbles choose, the low one first: `[256, 2]`.
pub(super) fn pairs<const SIZE: usize>(dtype: DataType, table: &[[u8; SIZE]]) -> TensorProto {
    let nibbles = (0..=u8::MAX).flat_map(|byte| [byte & 0xF, byte >> 4]);
    let entries: Vec<u8> = nibbles.flat_map(|nibble| table[usize::from(nibble)]).collect();
    TensorProto {
        dims: vec![256, 2],
        data_type: Some(dtype as i32),
        raw_data: Some(entries.into()),
        ..Default::default()
    }
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
        Some(Extra::Shifts(Ladder::M2)) => (
            "Ws is float32 [1, N]; We is uint8 [G, ceil(N / 2)], two 4-bit shifts a byte as in Wq",
            "value of code [k, n] * Ws[0, n] * 2^-We[k / group_size, n]",
        ),
        Some(Extra::Shifts(Ladder::M3)) => (
            "Ws is float32 [1, N]; We is uint8 [G, ceil(N / 2)], two 4-bit shifts a byte as in Wq, which stand for the \
             factors 3/2, 5/4, 1, 3/4, 5/8, 1/2 ...",
            "value of code [k, n] * Ws[0, n] * factor of We[k / group_size, n]",
        ),
        Some(Extra::Shifts(Ladder::M8)) => (
            "Ws is float32 [1, N]; We is uint8 [G, ceil(N / 2)], two 4-bit steps a byte as in Wq. A step is one code of E4M3: \
             after it a value is the next smaller E4M3 value",
            "value of code [k, n] after We[k / group_size, n] steps * Ws[0, n]",
        ),
        Some(Extra::ZeroPoints) => (
            "Ws is float32 [G, N]; Wz is int8 [G, N]",
            "(value of code [k, n] - Wz[k / group_size, n]) * Ws[k / group_size, n]",
        ),
    };
    let values = match format.bits() {
        4 if !format.is_integer() => {
            let values: Vec<_> = format.codebook()[..8].iter().map(f32::to_string).collect();
            format!(" The values of the codes 0 to 15 are {} and their negatives.", values.join(", "))
        }
        4 => " The codes are in two's complement, -8 to 7.".to_string(),
        _ => String::new(),
    };
    format!(
        "The float32 weight W [K, N] of {name} codes, in G = ceil(K / group_size) groups. {codes}; {operands}: \
         W[k, n] = {formula}.{values}"
    )
}
