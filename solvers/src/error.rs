//! What can go wrong while a weight matrix is solved.

use zqc_formats::FormatError;

/// Why a weight matrix could not be quantized.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// Weight, scales or format do not fit together.
    #[error(transparent)]
    Format(#[from] FormatError),
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
}
