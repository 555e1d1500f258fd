//! The bodies of functions of weights in a form that ONNX Runtime folds at once, with all that is between codes and weight in
//! memory: for layers in the bodies of `If`, `Loop` and `Scan`. Files of November 2026 have it everywhere.

use zqc_formats::{Extra, Format, GROUP_SIZE, WeightKind};
use zqc_ir::onnx::proto::{NodeProto, TensorProto};
use zqc_ir::op::attribute::{float, int, int_reference, ints, tensor};
use zqc_ir::tensor::DataType;

use super::dequantize::{factor_pairs, pairs};
use super::functions::{constant, node};

/// Values of codes are computed in units of the least positive one, in which those of 4-bit formats are integers: the
/// tensors that ONNX Runtime makes on its way to the weight stay small.
pub(super) fn body(kind: WeightKind) -> Vec<NodeProto> {
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

/// Nodes that unpack the codes `[K, N]`, and their name.
fn codes(weight: WeightKind) -> (Vec<NodeProto>, &'static str) {
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
fn unit_scales(weight: WeightKind) -> (Vec<NodeProto>, &'static str) {
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

/// What values of codes are counted in: the least positive value of a 4-bit format, else 1.
fn unit(format: Format) -> f32 {
    let positive = format.codebook().into_iter().filter(|&value| value > 0.0);
    if format.bits() == 4 { positive.fold(f32::INFINITY, f32::min) } else { 1.0 }
}

/// For every byte the values of its two codes, in units.
fn integer_pairs(format: Format) -> TensorProto {
    let values = format.codebook().into_iter().map(|value| (value / unit(format)) as i8 as u8);
    pairs(DataType::Int8, &values.map(|value| [value]).collect::<Vec<_>>())
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
