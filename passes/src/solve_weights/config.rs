//! How weights are to be solved, and what comes of one.

use serde::{Deserialize, Serialize};
use zqc_formats::{FactorFormat, Format, Levels, LowRank, QuantizedMatrix, WeightFormat};
use zqc_solvers::{GptqOptions, Grouping, ScaleConstraint};

use crate::record::{BranchRecord, CalibrationRecord, Coding};

/// How weights are solved.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct QuantConfig {
    /// What the weights become, and what GPTQ needs besides. Rounding to nearest reads the grouping only.
    pub gptq: GptqOptions,
    /// The low-rank branch beside the codes.
    pub branch: Option<LowRankConfig>,
}

/// The share of zeros in a weight beyond which it is coded in E2M1 instead of in a table without 0: the squared errors of normally
/// distributed weights with random zeros are equal at 20 % in groups of 64, at 30 % in groups of 16.
const MOST_ZEROS: f64 = 0.2;

impl QuantConfig {
    /// How this weight is to be solved, and why not as others are: a table without 0 is none for one that is mostly zeros, as
    /// pruned layers are.
    pub(super) fn of_weight(&self, weight: &[f32]) -> (Self, Option<String>) {
        let Grouping { format: WeightFormat { format, .. }, constraint, .. } = self.gptq.grouping;
        if !matches!(format.levels(), Levels::Table(_)) {
            return (*self, None);
        }
        let zeros =
            weight.iter().filter(|&&weight| weight == 0.0).count() as f64 / weight.len().max(1) as f64;
        if zeros <= MOST_ZEROS {
            return (*self, None);
        }
        let mut config = *self;
        config.gptq.grouping.format = Format::E2M1.into();
        if constraint != ScaleConstraint::None {
            config.gptq.grouping.constraint = ScaleConstraint::by_default(Format::E2M1);
        }
        let reason =
            format!("{:.0} % of its weights are 0, which {format} does not have: e2m1", 100.0 * zeros);
        (config, Some(reason))
    }
}

/// A low-rank branch on what the codes lose (LoRC, Yao et al., arXiv 2303.08302).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LowRankConfig {
    /// Its rank.
    pub rank: usize,
    /// What it repairs.
    pub metric: LowRankMetric,
    /// Number format of its factors.
    pub factors: FactorFormat,
    /// How often codes and branch are solved in turn: 1 solves the branch once, on the codes' error; each further round
    /// solves the codes for what the branch leaves of the weight, and the branch again.
    pub rounds: usize,
}

impl Default for LowRankConfig {
    /// Rank 8 in E4M3 on the layer's output, two rounds.
    fn default() -> Self {
        Self { rank: 8, metric: LowRankMetric::default(), factors: FactorFormat::E4M3, rounds: 2 }
    }
}

/// What a low-rank branch repairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LowRankMetric {
    /// The weight, as the paper.
    Plain,
    /// The output on the calibration data; without data, the weight.
    #[default]
    Activation,
}

/// Errors of a solved layer.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Errors {
    /// `|W - Ŵ| / |W|`, against the weight in the source model.
    pub weight: f64,
    /// As [`LayerRecord::output_error`](crate::LayerRecord::output_error), when there was data.
    pub output: Option<f64>,
}

/// A solved weight.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Solution {
    /// Codes and scales.
    pub matrix: QuantizedMatrix,
    /// The branch beside them.
    pub branch: Option<LowRank>,
    /// The errors of the codes of the first round alone.
    pub before: Errors,
    /// The errors of codes and branch.
    pub after: Errors,
    /// What it was solved on; `None` without calibration data.
    pub calibration: Option<CalibrationRecord>,
}

impl Solution {
    /// Whether this is whole, and of a weight `[rows, cols]`.
    pub(super) fn fits(&self, rows: usize, cols: usize) -> bool {
        let branch = self.branch.as_ref();
        self.matrix.check().is_ok()
            && (self.matrix.rows, self.matrix.cols) == (rows, cols)
            && branch
                .is_none_or(|branch| branch.check().is_ok() && (branch.rows, branch.cols) == (rows, cols))
    }

    /// How the original `weight` became this.
    pub(super) fn coding(&self, weight: &[f32]) -> Coding {
        let branch = self.branch.as_ref().map(|branch| BranchRecord {
            rank: branch.rank,
            weight_error_before: self.before.weight,
            output_error_before: self.before.output,
        });
        Coding { branch, ..Coding::new(weight, &self.matrix) }
    }

    /// Bits stored per weight, everything counted.
    pub(super) fn bits_per_weight(&self) -> f64 {
        self.matrix.bits_per_weight() + self.branch.as_ref().map_or(0.0, LowRank::bits_per_weight)
    }
}
