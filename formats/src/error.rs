//! Why parts are no quantized matrix or low-rank branch.

use crate::{Format, Ladder};

/// Why parts do not fit together.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A slice does not hold the number of values that its stated shape needs.
    #[error("{what} holds {actual} values, its shape needs {expected}")]
    Length {
        /// What the slice is.
        what: &'static str,
        /// Number of values that the shape needs.
        expected: usize,
        /// Number of values in the slice.
        actual: usize,
    },
    /// The matrix has no row or no column.
    #[error("the weight matrix is empty ({rows} x {cols})")]
    Empty {
        /// Number of output features.
        rows: usize,
        /// Number of input features.
        cols: usize,
    },
    /// A quantized matrix says that no weight shares a scale.
    #[error("the group size of a quantized matrix must be at least 1")]
    GroupSize,
    /// Group scales of a format that cannot be steps of such a ladder.
    #[error(
        "scales of {format} codes cannot be steps of a ladder ({ladder}): not every value would be exact in e4m3; use e2m1 \
         or no constraint"
    )]
    Shifted {
        /// Format of the codes.
        format: Format,
        /// The ladder.
        ladder: Ladder,
    },
    /// A shift at which not every value is exact in E4M3.
    #[error(
        "the scale of a group is step {shift} of its ladder, but {format} codes are exact in e4m3 up to {max} only"
    )]
    Shift {
        /// The shift.
        shift: u8,
        /// Format of the codes.
        format: Format,
        /// [`Ladder::max_shift`].
        max: u8,
    },
    /// Zero points of a floating-point format.
    #[error("{0} codes have no zero points, int4 and int8 codes do; quantize {0} symmetrically")]
    ZeroPoints(Format),
    /// The factors of a low-rank branch are not finite, or too badly scaled for `f32`.
    #[error("the low-rank factors overflowed: they are not finite or too badly scaled")]
    Overflow,
}

/// Checks that `what` holds as many values as its shape needs.
///
/// # Errors
///
/// [`FormatError::Length`].
pub fn check_length(what: &'static str, actual: usize, expected: usize) -> Result<(), FormatError> {
    if actual == expected { Ok(()) } else { Err(FormatError::Length { what, expected, actual }) }
}
