//! Round to nearest: every weight on its own.

use rayon::prelude::*;

use crate::{
    Format, QuantizedMatrix, SolveError,
    grid::max_abs,
    quantized::{check_weight, resolve_group_size},
};

/// Quantizes `weight` `[rows, cols]` by rounding each value to the nearest, with the scale
/// `max|w_group| / format.max()` for every group of `group_size` input features (0: the whole row). A group of zeros
/// has scale 1.
///
/// # Errors
///
/// [`SolveError::Empty`], [`SolveError::Length`] or [`SolveError::NonFiniteWeight`].
pub fn rtn(
    weight: &[f32],
    rows: usize,
    cols: usize,
    format: Format,
    group_size: usize,
) -> Result<QuantizedMatrix, SolveError> {
    check_weight(weight, rows, cols)?;
    let group_size = resolve_group_size(group_size, cols);
    let groups = cols.div_ceil(group_size);
    let grid = format.grid();
    let mut codes = vec![0; rows * cols];
    let mut scales = vec![0.0; rows * groups];
    codes.par_chunks_mut(cols).zip(scales.par_chunks_mut(groups)).zip(weight.par_chunks(cols)).for_each(
        |((codes, scales), weight)| {
            let parts = codes.chunks_mut(group_size).zip(weight.chunks(group_size));
            for (scale, (codes, weight)) in scales.iter_mut().zip(parts) {
                *scale = grid.scale(max_abs(weight));
                for (code, value) in codes.iter_mut().zip(weight) {
                    *code = format.encode(value / *scale);
                }
            }
        },
    );
    Ok(QuantizedMatrix { format, rows, cols, group_size, codes, scales })
}
