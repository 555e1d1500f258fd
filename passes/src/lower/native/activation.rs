//! The operators that quantize an activation token by token and yield it in float32 again.

use zqc_ir::op::attribute::{float, int, ints};
use zqc_ir::tensor::DataType;
use zqc_numerics::{ActivationFormat, Format, SCALE_FLOOR};

use super::writer::Writer;

/// Quantizes and dequantizes the float32 activation `x` `[..., K]`; `quantized` names what the results are called after.
pub(super) fn quantize(writer: &mut Writer, x: &str, quantized: &str, format: ActivationFormat, k: usize) {
    let parameters = match format.float() {
        Some(float) => vec![float_scales(writer, x, quantized, float)],
        None => integer_scales(writer, x, quantized),
    };
    // A block is a whole token: the scales have one column.
    let blocks = vec![int("axis", -1), int("block_size", k as i64)];
    let mut to_codes = blocks.clone();
    to_codes
        .extend(format.float().map(|float| int("output_dtype", zqc_ir::operands::codes_dtype(float) as i64)));
    let inputs = |first| [first].into_iter().chain(parameters.iter().map(String::as_str)).collect::<Vec<_>>();
    let codes = writer.add("QuantizeLinear", &inputs(x), to_codes, format!("{quantized}_codes"));
    writer.add("DequantizeLinear", &inputs(&codes), blocks, format!("{quantized}_values"));
}

/// The scales `[..., 1]` of a floating-point format.
fn float_scales(writer: &mut Writer, x: &str, quantized: &str, format: Format) -> String {
    let axis = last_axis(writer);
    let largest_code = match format {
        Format::E5M2 => "largest_e5m2",
        _ => "largest_e4m3",
    };
    let largest_code = writer.constant(largest_code, float("value_float", format.max()));
    let magnitude = writer.add("Abs", &[x], vec![], format!("{quantized}_magnitude"));
    let keep = vec![int("keepdims", 1)];
    let peak = writer.add("ReduceMax", &[&magnitude, &axis], keep, format!("{quantized}_peak"));
    let scale = writer.add("Div", &[&peak, &largest_code], vec![], format!("{quantized}_unfloored"));
    at_least_floor(writer, &scale, quantized)
}

/// The scales and the zero points `[..., 1]` of 8-bit integers.
fn integer_scales(writer: &mut Writer, x: &str, quantized: &str) -> Vec<String> {
    let axis = last_axis(writer);
    let zero = writer.constant("zero", float("value_float", 0.0));
    let last_code = writer.constant("last_code", float("value_float", u8::MAX.into()));
    let name = |part: &str| format!("{quantized}_{part}");
    let keep = || vec![int("keepdims", 1)];
    let least = writer.add("ReduceMin", &[x, &axis], keep(), name("least"));
    let low = writer.add("Min", &[&least, &zero], vec![], name("low"));
    let largest = writer.add("ReduceMax", &[x, &axis], keep(), name("largest"));
    let high = writer.add("Max", &[&largest, &zero], vec![], name("high"));
    let range = writer.add("Sub", &[&high, &low], vec![], name("range"));
    let scale = writer.add("Div", &[&range, &last_code], vec![], name("unfloored"));
    let scales = at_least_floor(writer, &scale, quantized);
    let below_zero = writer.add("Neg", &[&low], vec![], name("below_zero"));
    let unrounded = writer.add("Div", &[&below_zero, &scales], vec![], name("unrounded"));
    let rounded = writer.add("Round", &[&unrounded], vec![], name("rounded"));
    let to = int("to", DataType::Uint8 as i64);
    let zero_points = writer.add("Cast", &[&rounded], vec![to], name("zero_points"));
    vec![scales, zero_points]
}

fn at_least_floor(writer: &mut Writer, scale: &str, quantized: &str) -> String {
    let floor = writer.constant("scale_floor", float("value_float", SCALE_FLOOR));
    writer.add("Max", &[scale, &floor], vec![], format!("{quantized}_scales"))
}

fn last_axis(writer: &mut Writer) -> String {
    writer.constant("last_axis", ints("value_ints", &[-1]))
}
