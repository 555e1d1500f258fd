//! Token-wise activation quantization.

use std::fmt;

use rayon::prelude::*;

use crate::{
    Format,
    grid::{Grid, max_abs, range, round_to_integer},
    minifloat::Minifloat,
};

/// The number format of quantized activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationFormat {
    /// FP8 E4M3, see [`Format::E4M3`].
    E4M3,
    /// FP8 E5M2, see [`Format::E5M2`].
    E5M2,
    /// Unsigned 8-bit integers around a zero point, 0 to 255: the asymmetric INT8 of ZeroQuant.
    Int8,
}

impl ActivationFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::E4M3, Self::E5M2, Self::Int8];

    /// The values of a floating-point format; `None` for integers.
    const fn grid(self) -> Option<Grid> {
        match self {
            Self::E4M3 => Some(Minifloat::E4M3.grid),
            Self::E5M2 => Some(Minifloat::E5M2.grid),
            Self::Int8 => None,
        }
    }

    /// The floating-point format of the codes; `None` for the integers of [`ActivationFormat::Int8`].
    pub const fn float(self) -> Option<Format> {
        match self {
            Self::E4M3 => Some(Format::E4M3),
            Self::E5M2 => Some(Format::E5M2),
            Self::Int8 => None,
        }
    }
}

impl fmt::Display for ActivationFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::E4M3 => "e4m3",
            Self::E5M2 => "e5m2",
            Self::Int8 => "int8",
        })
    }
}

/// The smallest scale of a token, so that a token of zeros divides by something.
pub const SCALE_FLOOR: f32 = 1e-12;

/// Values that one rayon task should at least handle.
const MIN_TASK: usize = 1 << 14;

/// Quantizes and dequantizes activations `[T, width]` in place, token by token.
///
/// In the FP8 formats a token has one scale: `s = max(max|x| / format.max(), SCALE_FLOOR)`, `x = round(x / s) * s`.
/// [`ActivationFormat::Int8`] has a zero point too: with `lo = min(0, min x)` and `hi = max(0, max x)`,
/// `s = max((hi - lo) / 255, SCALE_FLOOR)`, `z = round(-lo / s)`, `x = (clamp(round(x / s) + z, 0, 255) - z) * s`. Ties
/// go to even everywhere.
///
/// For finite activations, bit for bit what ONNX Runtime computes in `f32` by the functions that the portable lowering
/// writes. A token that holds NaN or infinity becomes all NaN.
///
/// # Panics
///
/// If `x` is not a whole number of rows.
pub fn quantize_dequantize_tokens(x: &mut [f32], width: usize, format: ActivationFormat) {
    if x.is_empty() {
        return;
    }
    assert!(width > 0 && x.len().is_multiple_of(width), "{} values are no rows of {width}", x.len());
    let arch = pulp::Arch::new();
    x.par_chunks_mut(width).with_min_len(MIN_TASK.div_ceil(width)).for_each(|token| {
        arch.dispatch(
            #[inline(always)]
            || match format.grid() {
                Some(grid) => round_to_floats(token, grid),
                None => round_to_integers(token),
            },
        );
    });
}

#[inline(always)]
fn round_to_floats(token: &mut [f32], grid: Grid) {
    let scale = at_least_floor(max_abs(token) / grid.max);
    for value in token {
        *value = grid.round(*value / scale) * scale;
    }
}

#[inline(always)]
fn round_to_integers(token: &mut [f32]) {
    const LAST_CODE: f32 = u8::MAX as f32;
    let (low, high) = range(token);
    let scale = at_least_floor((high - low) / LAST_CODE);
    let zero = round_to_integer(-low / scale);
    for value in token {
        let code = round_to_integer(*value / scale) + zero;
        *value = (code.clamp(0.0, LAST_CODE) - zero) * scale;
    }
}

/// The scale, or the floor if that is larger. NaN stays.
#[inline(always)]
fn at_least_floor(scale: f32) -> f32 {
    if scale < SCALE_FLOOR { SCALE_FLOOR } else { scale }
}
