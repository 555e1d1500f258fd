//! What the tokens look like that linear layers read.

use serde::Serialize;
use zqc_passes::{ActivationRecord, ActivationStatistics};

/// One activation that linear layers read, before it is quantized.
#[derive(Debug, Clone, Serialize)]
pub struct ActivationReport {
    /// Name of the value in the source model.
    pub value: String,
    /// The layers that read it.
    pub layers: Vec<String>,
    /// The stage of these layers.
    pub stage: usize,
    /// Values of a token.
    pub width: usize,
    /// Tokens looked at: some of the calibration data.
    pub tokens: usize,
    /// Magnitudes relative to the largest of the token; empty when all tokens are zero.
    pub quantiles: Vec<Quantile>,
    /// The largest magnitude of each token, from the least to the most.
    pub token_max: Vec<Octave>,
    /// What rounding token by token costs in each number format.
    pub rounding_errors: Vec<RoundingError>,
}

/// A quantile of magnitudes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Quantile {
    /// The part of the values, 0 to 1.
    pub share: f64,
    /// The magnitude that they do not exceed.
    pub at_most: f32,
}

/// Tokens whose largest magnitude lies between a power of two and the next.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Octave {
    /// The power of two.
    pub at_least: f32,
    /// How many tokens.
    pub tokens: u64,
}

/// What rounding costs in a number format.
#[derive(Debug, Clone, Serialize)]
pub struct RoundingError {
    /// The number format: `e4m3`, `e5m2`, `int8`.
    pub format: String,
    /// `|X - X̂| / |X|` in the Frobenius norm.
    pub error: f64,
}

/// The parts of the values whose quantiles are reported.
const SHARES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

impl From<ActivationRecord> for ActivationReport {
    fn from(record: ActivationRecord) -> Self {
        let ActivationRecord { value, layers, stage, width, statistics } = record;
        let ActivationStatistics { tokens, relative, token_max, rounding_errors } = statistics;
        let shares = SHARES.into_iter().filter(|_| relative.count() > 0);
        let octaves = token_max.octaves().into_iter();
        let errors = rounding_errors.into_iter();
        Self {
            value,
            layers,
            stage,
            width,
            tokens,
            quantiles: shares.map(|share| Quantile { share, at_most: relative.quantile(share) }).collect(),
            token_max: octaves.map(|o| Octave { at_least: o.at_least, tokens: o.count }).collect(),
            rounding_errors: errors
                .map(|(format, error)| RoundingError { format: format.to_string(), error })
                .collect(),
        }
    }
}
