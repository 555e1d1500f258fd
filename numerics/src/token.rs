//! Token-wise activation quantization.

use rayon::prelude::*;

use crate::{Format, grid::max_abs};

/// The smallest scale of a token, so that a token of zeros divides by something.
pub const SCALE_FLOOR: f32 = 1e-12;

/// Values that one rayon task should at least handle.
const MIN_TASK: usize = 1 << 14;

/// Quantizes and dequantizes activations `[T, width]` in place, with one scale a token:
/// `s = max(max|x| / format.max(), SCALE_FLOOR)`, `x = round(x / s) * s`.
///
/// Bit for bit what ONNX Runtime computes in `f32` with Abs, ReduceMax, Div, Max, Div, Cast (saturating), Cast, Mul. A
/// token that holds NaN or infinity becomes all NaN.
///
/// # Panics
///
/// If `x` is not a whole number of rows.
pub fn quantize_dequantize_tokens(x: &mut [f32], width: usize, format: Format) {
    if x.is_empty() {
        return;
    }
    assert!(width > 0 && x.len().is_multiple_of(width), "{} values are no rows of {width}", x.len());
    let grid = format.grid();
    let arch = pulp::Arch::new();
    x.par_chunks_mut(width).with_min_len(MIN_TASK.div_ceil(width)).for_each(|token| {
        arch.dispatch(
            #[inline(always)]
            || {
                let scale = max_abs(token) / grid.max;
                let scale = if scale < SCALE_FLOOR { SCALE_FLOOR } else { scale };
                for value in token.iter_mut() {
                    *value = grid.round(*value / scale) * scale;
                }
            },
        );
    });
}
