//! Round to nearest: every weight on its own.

use zqc_formats::QuantizedMatrix;

use crate::{
    Grouping, SolveError, columns::to_columns, levels::GroupLevels, weight::check_weight,
    weight::resolve_group_size,
};

/// Quantizes `weight` `[rows, cols]` by rounding each value to the nearest. All weights count alike in the search for the
/// scales.
///
/// # Errors
///
/// [`FormatError::Empty`](zqc_formats::FormatError::Empty), [`FormatError::Length`](zqc_formats::FormatError::Length), [`SolveError::NonFiniteWeight`], [`FormatError::ZeroPoints`](zqc_formats::FormatError::ZeroPoints) or
/// [`FormatError::Shifted`](zqc_formats::FormatError::Shifted).
pub fn rtn(
    weight: &[f32],
    rows: usize,
    cols: usize,
    grouping: &Grouping,
) -> Result<QuantizedMatrix, SolveError> {
    check_weight(weight, rows, cols)?;
    grouping.check()?;
    let group_size = resolve_group_size(grouping.group_size, cols);
    let (format, importance) = (grouping.format.format, vec![1.0; cols]);
    grouping.quantize(weight, rows, cols, |weight| {
        let mut columns = to_columns(weight, cols);
        let scales = pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                let scales = grouping.scales(&columns, &importance, 1).swap_remove(0);
                for (group, found) in columns.chunks_mut(group_size).zip(&scales.groups) {
                    let levels = GroupLevels::new(format, found);
                    group.iter_mut().for_each(|column| *column = levels.round(column).0);
                }
                scales
            },
        );
        Ok((columns, scales))
    })
}
