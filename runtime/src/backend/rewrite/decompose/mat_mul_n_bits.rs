//! `MatMulNBits` of 8 bits: the weight in float, and `MatMul`.

use zqc_ir::onnx::proto::tensor_proto::DataType;

use super::parts::Parts;

/// The inputs.
const X: usize = 0;
const CODES: usize = 1;
const SCALES: usize = 2;
const ZERO_POINTS: usize = 3;
const ORDER: usize = 4;
const BIAS: usize = 5;
/// The zero point where none is given.
const MIDDLE: f32 = 128.0;

/// Codes `[N, blocks, block size]` of a byte each. Other widths stay, as does a weight whose columns are in another order.
pub fn decompose(parts: &mut Parts) -> Option<()> {
    if parts.node().int_or("bits", 4) != 8 || parts.input(ORDER).is_some() {
        return None;
    }
    let (n, k, size) = (parts.count_of("N")?, parts.count_of("K")?, parts.count_of("block_size")?);
    let blocks = k.checked_add(size - 1)? / size;
    let (codes, scales) = (parts.input(CODES)?, parts.input(SCALES)?);
    let codes = parts.cast(codes, DataType::Float);
    let zero_points = match parts.input(ZERO_POINTS) {
        Some(points) => {
            let points = parts.cast(points, DataType::Float);
            parts.reshape(&points, &[n, blocks, 1])
        }
        None => parts.float(MIDDLE),
    };
    let scales = parts.reshape(scales, &[n, blocks, 1]);
    let weight = parts.op("Sub", &[&codes, &zero_points], Vec::new());
    let weight = parts.op("Mul", &[&weight, &scales], Vec::new());
    let weight = parts.reshape(&weight, &[n, blocks.checked_mul(size)?]);
    let weight = parts.part(&weight, 0, k, 1);
    let weight = parts.transpose(&weight, &[1, 0]);
    let mut y = parts.op("MatMul", &[parts.input(X)?, &weight], Vec::new());
    if let Some(bias) = parts.input(BIAS) {
        y = parts.op("Add", &[&y, bias], Vec::new());
    }
    parts.yield_as(0, &y);
    Some(())
}
