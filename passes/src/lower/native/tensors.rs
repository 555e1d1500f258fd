//! The operands of a layer as tensors of ONNX's own types.

use zqc_formats::{Format, Ladder, pack_nibbles, transpose, transpose_nibbles, unpack_nibbles};
use zqc_ir::Tensor;
use zqc_ir::op::{QuantizedLinear, port};
use zqc_ir::operands::native_dtype;
use zqc_ir::tensor::{DataType, TensorError};

use crate::lower::layout;

/// The operand at `port` of a layer as the file wants it: transposed as in portable files, 4-bit elements packed two a
/// byte from the first to the last, and steps of a ladder as the numbers that they stand for.
///
/// # Errors
/// When the tensor cannot be read, or holds zero points that need more bits than the codes.
pub(super) fn to_native(linear: &QuantizedLinear, at: usize, tensor: &Tensor) -> Result<Tensor, TensorError> {
    let (&QuantizedLinear { k, n, ladder, .. }, groups) = (linear, linear.groups());
    match (at, four_bits(linear.format), ladder) {
        (port::WEIGHT, Some(dtype), _) => {
            let rows = transpose_nibbles(&tensor.bytes()?, n, k);
            let codes = if n.is_multiple_of(2) { rows } else { without_padding(&rows, n) };
            Tensor::new(dtype, &[k, n], codes)
        }
        (port::ZERO_POINTS, Some(dtype), _) => {
            let zero_points = transpose(&tensor.bytes()?, n, groups);
            if zero_points.iter().any(|&zero| !(-8..8).contains(&(zero as i8))) {
                return Err(TensorError::Kind { found: "a zero point", wanted: "4 bits" });
            }
            Tensor::new(dtype, &[groups, n], pack_nibbles(&zero_points))
        }
        (port::SCALES, _, Some(_)) => Tensor::from_f32(&[n], tensor.to_f32()?),
        (port::SHIFTS, _, Some(ladder)) => {
            let (dtype, code): (_, fn(u8) -> u8) = match ladder {
                Ladder::M2 => (DataType::Float8e8m0, e8m0),
                Ladder::M3 => (DataType::Float8e4m3fn, |shift| Format::E4M3.encode(Ladder::M3.factor(shift))),
                Ladder::M8 => return Err(NO_FACTORS),
            };
            let shifts = transpose(&tensor.bytes()?, n, groups);
            Tensor::new(dtype, &[groups, n], shifts.into_iter().map(code).collect::<Vec<u8>>())
        }
        _ => layout::to_file(linear, at, tensor),
    }
}

/// Steps of M8 are none of a scale, which ONNX's blocks have alone.
pub(super) const NO_FACTORS: TensorError =
    TensorError::Kind { found: "steps of E4M3 codes", wanted: "factors" };

/// ONNX's type of 4-bit codes.
fn four_bits(format: Format) -> Option<DataType> {
    native_dtype(format).filter(|_| format.bits() == 4)
}

/// Rows of an odd number of 4-bit codes, one right after the other.
fn without_padding(rows: &[u8], n: usize) -> Vec<u8> {
    let codes: Vec<u8> = rows.chunks(n.div_ceil(2)).flat_map(|row| unpack_nibbles(row, n)).collect();
    pack_nibbles(&codes)
}

/// The code of `2^-shift` in E8M0: an exponent with a bias of 127.
fn e8m0(shift: u8) -> u8 {
    127u8.saturating_sub(shift)
}
