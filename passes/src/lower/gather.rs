//! The functions that look rows up in a quantized table: `GatherInt8` and `GatherE4M3`

use zqc_formats::{Format, GROUP_SIZE, OUTPUT_TYPE, Operand, WeightKind};
use zqc_ir::onnx::proto::FunctionProto;
use zqc_ir::op::QuantizedLinear;
use zqc_ir::op::attribute::int_reference;
use zqc_ir::tensor::DataType;

use super::functions::{function, node, own_node};

/// What the function calls the indices, its first input.
const INDICES: &str = "Indices";

/// The kind of a table; `None` where no function looks rows up in such a one.
pub(super) fn kind(table: &QuantizedLinear) -> Option<WeightKind> {
    WeightKind::tables().find(|kind| {
        kind.format == table.format && kind.ladder() == table.ladder && table.groups() == 1 && table.rank == 0
    })
}

/// What an operand of a table is in the file, and of a layer that is tied to it: its element type and its dimensions.
pub(super) fn file_type(operand: Operand, table: &QuantizedLinear) -> (DataType, Vec<usize>) {
    match operand {
        Operand::Weight => (codes_type(table.format), vec![table.n, table.k]),
        _ => (DataType::Float, vec![table.n, 1]),
    }
}

/// The type of codes in the file: one that ONNX's `Gather` knows.
pub(super) fn codes_type(format: Format) -> DataType {
    if format == Format::Int8 { DataType::Int8 } else { DataType::Uint8 }
}

/// The function in terms of that of the rows and of the standard operators of version `opset`. What is looked up are codes and
/// scales, so that no runtime has the table in float.
pub(super) fn definition(kind: WeightKind, opset: i64) -> FunctionProto {
    let operands: Vec<&str> = kind.operands().map(Operand::name).collect();
    let inputs: Vec<&str> = [INDICES].into_iter().chain(operands.iter().copied()).collect();
    let rows: Vec<String> = operands.iter().map(|name| format!("{name}_rows")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let look_up = |(from, to): (&&str, &&str)| node("Gather", &[from, INDICES], &[to], vec![]);
    let mut body: Vec<_> = operands.iter().zip(&rows).map(look_up).collect();
    let group_size = vec![int_reference(GROUP_SIZE, GROUP_SIZE)];
    body.push(own_node(&kind.dequantize_rows_function(), &rows, &["rows"], group_size));
    body.push(node("Cast", &["rows"], &["Y"], vec![int_reference("to", OUTPUT_TYPE)]));
    let doc = format!(
        "Rows of a table: Y [..., K] = W[Indices], cast to output_type, a TensorProto.DataType. Indices is int32 or int64 [...]; \
         W [V, K] is what {} yields of {} and group_size.",
        kind.dequantize_rows_function(),
        operands.join(", "),
    );
    let attributes = [GROUP_SIZE, OUTPUT_TYPE];
    let name = kind.gather_function();
    function(name, &inputs, &["Y"], &attributes, opset, body, doc)
}
