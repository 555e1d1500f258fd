//! What can go wrong while a weight matrix is solved.

use crate::{Format, Ladder};

/// Why a weight matrix could not be quantized, or is no quantized matrix.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
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
    /// A weight is NaN or infinite.
    #[error("the weight in row {row}, column {col} is {value}")]
    NonFiniteWeight {
        /// Output feature of the first such weight.
        row: usize,
        /// Input feature of the first such weight.
        col: usize,
        /// Its value.
        value: f32,
    },
    /// The calibration activations held NaN or infinity, or their squares overflowed.
    #[error("the Hessian holds NaN or infinity: the calibration activations are not finite")]
    NonFiniteHessian,
    /// No calibration token reached the layer, or every one was zero.
    #[error("no calibration token reached the layer: its Hessian is zero")]
    NoTokens,
    /// The Hessian cannot be factored, even with the strongest damping.
    #[error("the Hessian is not positive definite, even damped by {damping} of its mean diagonal")]
    NotPositiveDefinite {
        /// The last damping tried, relative to the mean of the diagonal.
        damping: f64,
    },
    /// The column updates overflowed `f32`.
    #[error("the weight updates overflowed: weights or Hessian are too badly scaled")]
    Overflow,
    /// [`GptqOptions::damping`](crate::GptqOptions::damping) is negative, NaN or infinite.
    #[error("damping must be finite and not negative, not {0}")]
    Damping(f64),
    /// [`GptqOptions::block_size`](crate::GptqOptions::block_size) is zero.
    #[error("the block size must be at least 1")]
    BlockSize,
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
}
