//! What the passes tell of their work.

use serde::{Deserialize, Serialize};
use zqc_formats::{Format, Ladder, QuantizedMatrix, Scales};

use crate::statistics::{ActivationStatistics, WeightHistogram};

/// What became of one layer.
#[derive(Debug, Clone)]
pub struct LayerRecord {
    /// The layer's path in the source model.
    pub layer: String,
    /// Input features.
    pub k: usize,
    /// Output features.
    pub n: usize,
    /// The stage in which it was solved.
    pub stage: usize,
    /// Size of the float weight in the source, in bytes.
    pub source_bytes: u64,
    /// How the weight was coded.
    pub coding: Coding,
    /// Bits per weight as stored, everything counted.
    pub bits_per_weight: f64,
    /// Relative Frobenius error of the weight, `|W - Ŵ| / |W|`, against the weight `W` in the source model.
    pub weight_error: f64,
    /// Relative error of the layer's output on the calibration tokens, `|X(T - Ŵ)ᵀ| / |X Tᵀ|`, when it was calibrated. `T` is the
    /// weight that the layer was solved for: `W`, moved by what the layer makes up for of the errors before it. Where tokens
    /// are few, `X` are those held out.
    pub output_error: Option<f64>,
    /// What the weight was solved on; `None` without calibration data.
    pub calibration: Option<CalibrationRecord>,
    /// Time spent in the solver.
    pub seconds: f64,
}

/// What tuning did.
#[derive(Debug, Clone, Serialize)]
pub struct TuneRecord {
    /// Steps that were made.
    pub steps: usize,
    /// The step whose factors are kept; 0 where none was better than what was there before.
    pub best_step: usize,
    /// How many factors there are.
    pub factors: usize,
    /// The KL divergence from the float model before and with the factors that are kept, in nats a token, on samples that nothing is
    /// tuned on; `None` where there are too few.
    pub kl: Option<[f64; 2]>,
    /// Wall time.
    pub seconds: f64,
}

/// What a weight was solved on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CalibrationRecord {
    /// Calibration tokens that reached the weight's layers.
    pub tokens: usize,
    /// Input features that are zero on every token; their weights are rounded to nearest.
    pub dead_features: usize,
    /// Tokens of an expert to which the float model sends others: nothing is made up for on them.
    pub unmatched_tokens: usize,
    /// How GPTQ and rounding to nearest compare where tokens are few for the number of input features.
    pub held_out: Option<HeldOutRecord>,
}

/// Output errors of the codes alone, as [`LayerRecord::output_error`], on tokens that they were not solved on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HeldOutRecord {
    /// How many tokens.
    pub tokens: usize,
    /// The error of GPTQ's codes.
    pub gptq_error: f64,
    /// The error of the codes of rounding to nearest.
    pub rtn_error: f64,
}

impl HeldOutRecord {
    /// Whether GPTQ's codes are taken; else those of rounding to nearest.
    pub fn takes_gptq(&self) -> bool {
        self.gptq_error < self.rtn_error
    }
}

/// How a weight `[N, K]` was coded.
#[derive(Debug, Clone)]
pub struct Coding {
    /// Number format of the codes.
    pub format: Format,
    /// Whether every group has a zero point.
    pub zero_points: bool,
    /// Weights along K that share a scale.
    pub group_size: usize,
    /// The weights as the number format sees them.
    pub weights: WeightHistogram,
    /// What a shift of a group's scale stands for; `None` when scales are not constrained.
    pub ladder: Option<Ladder>,
    /// How many groups have shift 0, 1, 2 ...; empty when scales are not constrained.
    pub shifts: Vec<u64>,
    /// The low-rank branch beside the codes.
    pub branch: Option<BranchRecord>,
}

/// The low-rank branch of a layer, and the errors of the layer without it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BranchRecord {
    /// Its rank.
    pub rank: usize,
    /// As [`LayerRecord::weight_error`], of the codes alone.
    pub weight_error_before: f64,
    /// As [`LayerRecord::output_error`], of the codes alone.
    pub output_error_before: Option<f64>,
}

/// The tokens that linear layers read, over the calibration data.
#[derive(Debug, Clone)]
pub struct ActivationRecord {
    /// Name of the value in the source model.
    pub value: String,
    /// The layers that read it.
    pub layers: Vec<String>,
    /// The stage of these layers.
    pub stage: usize,
    /// Values of a token.
    pub width: usize,
    /// What the tokens look like.
    pub statistics: ActivationStatistics,
}

impl Coding {
    /// How the original `weight` `[N, K]` became `matrix`, without a branch.
    pub fn new(weight: &[f32], matrix: &QuantizedMatrix) -> Self {
        Self {
            format: matrix.format,
            zero_points: matrix.zero_points.is_some(),
            group_size: matrix.group_size,
            weights: WeightHistogram::new(weight, matrix),
            ladder: matrix.scales.ladder(),
            shifts: match &matrix.scales {
                Scales::Grouped(_) => Vec::new(),
                Scales::Shifted { shifts, .. } => counts(shifts),
            },
            branch: None,
        }
    }
}

impl Coding {
    /// Counts the weights and the shifts of other rows of the same weight in, coded in the same way.
    pub(crate) fn add(&mut self, rows: &Self) {
        self.weights.add(&rows.weights);
        self.shifts.resize(self.shifts.len().max(rows.shifts.len()), 0);
        self.shifts.iter_mut().zip(&rows.shifts).for_each(|(sum, count)| *sum += count);
    }
}

/// How often each number from 0 to the largest occurs.
fn counts(numbers: &[u8]) -> Vec<u64> {
    let mut counts = vec![0; numbers.iter().max().map_or(0, |&max| usize::from(max) + 1)];
    numbers.iter().for_each(|&number| counts[usize::from(number)] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn numbers_are_counted_up_to_the_largest() {
        assert_eq!(counts(&[3, 0, 3, 1]), [1, 1, 0, 2]);
        assert_eq!(counts(&[]), [0; 0]);
    }
}
