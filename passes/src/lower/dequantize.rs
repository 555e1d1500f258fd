//! The functions that turn codes into a float weight: `DequantizeE2M1`, `DequantizeInt4_ZeroPoints` ...

use zqc_ir::onnx::proto::{FunctionProto, NodeProto, TensorProto};
use zqc_ir::op::attribute::{float, int, int_reference, ints, tensor};
use zqc_ir::tensor::DataType;
use zqc_numerics::{Extra, Format, GROUP_SIZE, Ladder, Operand, WeightKind};

use super::folding::Steps;
use super::functions::{constant, function, node};

/// The function in terms of the standard operators of version `opset`.
pub(super) fn definition(weight: WeightKind, opset: i64) -> FunctionProto {
    of_body(weight, body(weight), opset)
}

/// The function of this body.
pub(super) fn of_body(weight: WeightKind, body: Vec<NodeProto>, opset: i64) -> FunctionProto {
    let operands: Vec<&str> = weight.operands().map(Operand::name).collect();
    function(weight.dequantize_function(), &operands, &["W"], &[GROUP_SIZE], opset, body, doc(weight))
}

/// Values of codes are computed in units of the least positive one, in which those of 4-bit formats are integers: the
/// tensors that ONNX Runtime makes on its way to the weight stay small. Rows come in blocks that share their
/// scales: groups where all of them are whole, else single rows.
fn body(weight: WeightKind) -> Vec<NodeProto> {
    let (mut body, codes) = codes(weight);
    let (scale_nodes, scales) = unit_scales(weight);
    if body.is_empty() {
        body.push(node("Shape", &["Ws"], &["n"], vec![int("start", 1)]));
    }
    body.extend(scale_nodes);
    body.extend([
        node("Shape", &["Wq"], &["rows"], vec![int("end", 1)]),
        node("Squeeze", &["rows"], &["k"], vec![]),
        constant("zero", int("value_int", 0)),
        constant("one", int("value_int", 1)),
        constant("rest", ints("value_ints", &[-1])),
        constant("rows_per_group", int_reference("value_int", GROUP_SIZE)),
        node("Mod", &["k", "rows_per_group"], &["rows_of_short_group"], vec![]),
        node("Cast", &["rows_of_short_group"], &["has_short_group"], vec![int("to", DataType::Bool as i64)]),
        node("Where", &["has_short_group", "one", "rows_per_group"], &["rows_per_block"], vec![]),
        node("Range", &["zero", "k", "rows_per_block"], &["first_row"], vec![]),
        node("Div", &["first_row", "rows_per_group"], &["group"], vec![]),
    ]);
    let mut steps = Steps::begin(&mut body);
    let step = steps.next(&mut body);
    body.extend([
        node("Mul", &["rows_per_block", &step], &["rows_by_step"], vec![]),
        node("Concat", &["rest", "rows_by_step", "n"], &["by_block"], vec![int("axis", 0)]),
    ]);
    let cast = |from: &str, to: &str| node("Cast", &[from], &[to], vec![int("to", DataType::Float as i64)]);
    let reshape = |from: &str, to: &str| node("Reshape", &[from, "by_block"], &[to], vec![]);
    body.extend(match weight.format {
        // ONNX Runtime reshapes no FP8.
        Format::E4M3 | Format::E5M2 => [cast(codes, "floats"), reshape("floats", "values")],
        _ => [reshape(codes, "codes"), cast("codes", "values")],
    });
    let mut values = "values";
    if weight.extra == Some(Extra::ZeroPoints) {
        let step = steps.next(&mut body);
        body.extend(for_blocks("Wz", "zero_points", &step));
        body.extend([
            cast("zero_points", "zero_values"),
            node("Sub", &["values", "zero_values"], &["centred"], vec![]),
        ]);
        values = "centred";
    }
    let step = steps.next(&mut body);
    body.extend(for_blocks(scales, "scales", &step));
    body.push(node("Mul", &[values, "scales"], &["scaled"], vec![]));
    let step = steps.next(&mut body);
    body.extend([
        node("Mul", &["n", &step], &["n_by_step"], vec![]),
        node("Concat", &["rest", "n_by_step"], &["by_row"], vec![int("axis", 0)]),
        node("Reshape", &["scaled", "by_row"], &["W"], vec![]),
    ]);
    body
}

/// Nodes that unpack the codes `[K, N]`, and their name.
pub(super) fn codes(weight: WeightKind) -> (Vec<NodeProto>, &'static str) {
    let packed = weight.format.bits() == 4;
    let mut nodes = Vec::new();
    if packed || weight.ladder().is_some() {
        nodes.extend([
            constant("rows_by_rest", ints("value_ints", &[0, -1])),
            constant("first", ints("value_ints", &[0])),
            constant("columns", ints("value_ints", &[1])),
            node("Shape", &["Ws"], &["n"], vec![int("start", 1)]),
        ]);
    }
    if packed {
        nodes.extend(unpack("Wq", "units", integer_pairs(weight.format)));
    }
    (nodes, if packed { "units" } else { "Wq" })
}

/// Nodes that yield what a unit stands for in each group, `[G, N]`, and its name.
pub(super) fn unit_scales(weight: WeightKind) -> (Vec<NodeProto>, &'static str) {
    let mut nodes = Vec::new();
    let mut scales = "Ws";
    if let Some(ladder) = weight.ladder() {
        nodes.extend(unpack("We", "factors", factor_pairs(ladder)));
        nodes.push(node("Mul", &["Ws", "factors"], &["group_scales"], vec![]));
        scales = "group_scales";
    }
    let unit = unit(weight.format);
    if unit != 1.0 {
        nodes.extend([
            constant("unit", float("value_float", unit)),
            node("Mul", &[scales, "unit"], &["unit_scales"], vec![]),
        ]);
        scales = "unit_scales";
    }
    (nodes, scales)
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

/// Nodes that turn `operand`, a row for each group, into a row for each block, `[blocks, 1, N]`, in the step `step`.
fn for_blocks(operand: &str, output: &str, step: &str) -> [NodeProto; 3] {
    let [rows, shape] = ["rows", "shape"].map(|what| format!("{output}_{what}"));
    [
        node("Gather", &[operand, "group"], &[&rows], vec![]),
        node("Concat", &["rest", step, "n"], &[&shape], vec![int("axis", 0)]),
        node("Reshape", &[&rows, &shape], &[output], vec![]),
    ]
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
