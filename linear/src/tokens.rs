//! Quantization of activations, token by token.

use half::{bf16, f16};
use zqc_numerics::ActivationFormat;

use crate::error::{Expected, ShapeError};
use crate::isa::Isa;
use crate::reference;

/// Activations in float, `[M, K]`.
#[derive(Clone, Copy, Debug)]
pub enum Activations<'a> {
    /// Floats.
    F32(&'a [f32]),
    /// Floats of 16 bits.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

impl Activations<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::F16(x) => x.len(),
            Self::Bf16(x) => x.len(),
        }
    }
}

/// Quantizes `x` `[M, K]`, for every token of `k` values, to `codes` `[M, K]`, `scales` `[M]` and, for integers, `zero_points` `[M]`,
/// which is empty for FP8.
///
/// In FP8 `scale = max(max|x| / largest, 1e-12)` and `code = x / scale` rounded; integers have the range of the token and 0 for
/// their 256 codes. A token that holds NaN or infinity has a scale of NaN. Ties go to even.
///
/// # Errors
/// When the slices do not fit.
pub fn quantize_tokens(
    isa: Isa,
    format: ActivationFormat,
    x: Activations<'_>,
    k: usize,
    codes: &mut [u8],
    scales: &mut [f32],
    zero_points: &mut [u8],
) -> Result<(), ShapeError> {
    if k == 0 || !x.len().is_multiple_of(k) {
        return Err(ShapeError { what: "activations", expected: Expected::MultipleOf(k), actual: x.len() });
    }
    let m = x.len() / k;
    ShapeError::check("codes", codes.len(), x.len())?;
    ShapeError::check("scales of the tokens", scales.len(), m)?;
    ShapeError::check(
        "zero points of the tokens",
        zero_points.len(),
        if format.float().is_some() { 0 } else { m },
    )?;
    let _ = isa;
    let mut token = vec![0.0; k];
    for (at, (codes, scale)) in codes.chunks_exact_mut(k).zip(scales).enumerate() {
        let row = at * k..(at + 1) * k;
        match x {
            Activations::F32(x) => token.copy_from_slice(&x[row]),
            Activations::F16(x) => token.iter_mut().zip(&x[row]).for_each(|(to, from)| *to = from.to_f32()),
            Activations::Bf16(x) => token.iter_mut().zip(&x[row]).for_each(|(to, from)| *to = from.to_f32()),
        }
        let (found, zero_point) = reference::quantize_token(format, &token, codes);
        *scale = found;
        if let Some(to) = zero_points.get_mut(at) {
            *to = zero_point;
        }
    }
    Ok(())
}
