//! The bodies of functions of weights in a form that ONNX Runtime folds at once, with all that is between codes and weight in
//! memory: for layers in the bodies of `If`, `Loop` and `Scan`. Files of November 2026 have it everywhere.

use zqc_formats::{Extra, Format, GROUP_SIZE, Ladder, Levels, WeightKind};
use zqc_ir::onnx::proto::{NodeProto, TensorProto};
use zqc_ir::op::attribute::{float, int, int_reference, ints, tensor};
use zqc_ir::tensor::DataType;

use super::dequantize::{factor_pairs, integer_pairs, pairs, step_table, value_pairs};
use super::functions::{constant, node};

/// Values of codes are computed in units of the least positive one, in which those of most 4-bit formats are integers: the
/// tensors that ONNX Runtime makes on its way to the weight stay small.
pub(super) fn body(kind: WeightKind) -> Vec<NodeProto> {
    if kind.ladder() == Some(Ladder::M8) {
        return stepped_body(kind.format);
    }
    let mut body = values(kind);
    let (scale_nodes, scales) = unit_scales(kind);
    body.extend(scale_nodes);
    body.extend(groups_of_rows("values"));
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

/// Under [`Ladder::M8`] code and step choose one of 256 values.
fn stepped_body(format: Format) -> Vec<NodeProto> {
    let mut body = shapes().to_vec();
    body.extend(unpack("Wq", "codes", integer_pairs(1)));
    body.extend(unpack("We", "steps", integer_pairs(16)));
    body.extend(groups_of_rows("codes"));
    body.extend([
        node("Gather", &["steps", "group"], &["row_steps"], vec![]),
        node("Add", &["row_steps", "codes"], &["entries"], vec![]),
        constant("values_of_steps", tensor("value", step_table(format))),
        node("Gather", &["values_of_steps", "entries"], &["values"], vec![]),
        node("Mul", &["values", "Ws"], &["W"], vec![]),
    ]);
    body
}

/// Nodes that yield the `group` of every row of `matrix`.
fn groups_of_rows(matrix: &str) -> [NodeProto; 7] {
    [
        node("Shape", &[matrix], &["rows"], vec![int("end", 1)]),
        node("Squeeze", &["rows"], &["k"], vec![]),
        constant("zero", int("value_int", 0)),
        constant("one", int("value_int", 1)),
        node("Range", &["zero", "k", "one"], &["row"], vec![]),
        constant("rows_per_group", int_reference("value_int", GROUP_SIZE)),
        node("Div", &["row", "rows_per_group"], &["group"], vec![]),
    ]
}

/// What [`unpack`] reads.
fn shapes() -> [NodeProto; 4] {
    [
        constant("rows_by_rest", ints("value_ints", &[0, -1])),
        constant("first", ints("value_ints", &[0])),
        constant("columns", ints("value_ints", &[1])),
        node("Shape", &["Ws"], &["n"], vec![int("start", 1)]),
    ]
}

/// Nodes that yield the `values` of the codes `[K, N]`, in units.
fn values(weight: WeightKind) -> Vec<NodeProto> {
    let packed = weight.format.bits() == 4;
    let mut nodes = Vec::new();
    if packed || weight.ladder().is_some() {
        nodes.extend(shapes());
    }
    if is_table(weight.format) {
        nodes.extend(unpack("Wq", "values", value_pairs(weight.format)));
        return nodes;
    }
    if packed {
        nodes.extend(unpack("Wq", "units", unit_pairs(weight.format)));
    }
    let codes = if packed { "units" } else { "Wq" };
    nodes.push(node("Cast", &[codes], &["values"], vec![int("to", DataType::Float as i64)]));
    nodes
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

/// Whether the values of a format are no multiples of one of them.
fn is_table(format: Format) -> bool {
    matches!(format.levels(), Levels::Table(_))
}

/// What values of codes are counted in: the least positive value of a 4-bit format of multiples of it, else 1.
fn unit(format: Format) -> f32 {
    let positive = format.codebook().into_iter().filter(|&value| value > 0.0);
    if format.bits() == 4 && !is_table(format) { positive.fold(f32::INFINITY, f32::min) } else { 1.0 }
}

/// For every byte the values of its two codes, in units.
fn unit_pairs(format: Format) -> TensorProto {
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
