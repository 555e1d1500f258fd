//! Calibration text that the model writes itself.
//!
//! Sampling token by token would need a cache, or a run per token. Here all positions are drawn at once, round
//! after round: every position has a fixed Gumbel noise vector, and a round replaces each token by
//! `argmax(logits + noise)` under the sequence of the round before (Jacobi iteration). After as many rounds as tokens
//! this is exactly the ancestral sample of that noise; the first `r` tokens are after `r` rounds, and the rest are
//! each drawn from the model given the round before, which is what calibration needs.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use crate::array::Array;

/// Why no text was made.
#[derive(Debug, thiserror::Error)]
pub enum SynthesizeError<E> {
    /// The model failed.
    #[error(transparent)]
    Model(E),
    /// The model's output is no logits.
    #[error("the model's logits have shape {found:?} where f32 of shape {expected:?} is needed")]
    Logits {
        /// Shape of the output.
        found: Vec<usize>,
        /// `[1, seq_len, vocab]`.
        expected: Vec<usize>,
    },
}
