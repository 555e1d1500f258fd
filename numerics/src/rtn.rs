//! Round to nearest: every weight on its own.

use rayon::prelude::*;

use crate::{
    Format, QuantizedMatrix, ScaleSearch, SolveError,
    columns::{ROWS, to_columns, to_rows},
    quantized::{check_weight, resolve_group_size},
};

/// Quantizes `weight` `[rows, cols]` by rounding each value to the nearest, with a scale for every group of `group_size`
/// input features (0: the whole row). All weights count alike in the search for it.
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
    scale_search: ScaleSearch,
) -> Result<QuantizedMatrix, SolveError> {
    check_weight(weight, rows, cols)?;
    let group_size = resolve_group_size(group_size, cols);
    let groups = cols.div_ceil(group_size);
    let (grid, importance) = (format.grid(), vec![1.0; cols]);
    let mut codes = vec![0; rows * cols];
    let mut scales = vec![0.0; rows * groups];
    codes
        .par_chunks_mut(ROWS * cols)
        .zip(scales.par_chunks_mut(ROWS * groups))
        .zip(weight.par_chunks(ROWS * cols))
        .for_each(|((codes, scales), weight)| {
            let columns = to_columns(weight, cols);
            let found = pulp::Arch::new().dispatch(
                #[inline(always)]
                || scale_search.scales(grid, &columns, &importance, group_size),
            );
            to_rows(scales, &found, |scale| scale);
            let rows = codes.chunks_mut(cols).zip(weight.chunks(cols)).zip(scales.chunks(groups));
            for ((codes, weight), scales) in rows {
                let parts = codes.chunks_mut(group_size).zip(weight.chunks(group_size));
                for ((codes, weight), scale) in parts.zip(scales) {
                    for (code, value) in codes.iter_mut().zip(weight) {
                        *code = format.encode(value / scale);
                    }
                }
            }
        });
    Ok(QuantizedMatrix { format, rows, cols, group_size, codes, scales })
}
