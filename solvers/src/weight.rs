//! What every solver checks of the weight that it is given.

use rayon::prelude::*;
use zqc_formats::{FormatError, check_length};

use crate::SolveError;

/// Checks that `weight` is a finite `[rows, cols]` matrix with at least one element.
pub(crate) fn check_weight(weight: &[f32], rows: usize, cols: usize) -> Result<(), SolveError> {
    if rows == 0 || cols == 0 {
        return Err(FormatError::Empty { rows, cols }.into());
    }
    check_length("the weight matrix", weight.len(), rows.saturating_mul(cols))?;
    match weight.par_iter().position_first(|value| !value.is_finite()) {
        Some(at) => Err(SolveError::NonFiniteWeight { row: at / cols, col: at % cols, value: weight[at] }),
        None => Ok(()),
    }
}

/// The group size to use along `cols` input features: 0, or more than there are, means the whole row.
pub(crate) fn resolve_group_size(group_size: usize, cols: usize) -> usize {
    if group_size == 0 { cols } else { group_size.min(cols) }
}
