//! What can go wrong while a weight matrix is solved.

/// Why a weight matrix could not be quantized.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
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
    /// The Hessian belongs to a layer with another number of input features.
    #[error("the Hessian is for {hessian} input features, the weight matrix has {weight}")]
    HessianSize {
        /// Input features of the Hessian.
        hessian: usize,
        /// Input features of the weight matrix.
        weight: usize,
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
}
