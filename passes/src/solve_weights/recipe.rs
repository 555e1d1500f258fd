//! How one weight is solved.

use serde::{Deserialize, Serialize};
use zqc_numerics::{
    Correction, CrossMoment, FactorFormat, Gptq, GptqOptions, Hessian, LowRank, Metric, QuantizedMatrix,
    SolveError, lorc, relative_error, rtn,
};

use crate::record::{BranchRecord, Coding};

/// How weights are solved.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Recipe {
    /// What the weights become, and what GPTQ needs besides. Rounding to nearest reads the grouping only.
    pub gptq: GptqOptions,
    /// The low-rank branch beside the codes.
    pub branch: Option<Branch>,
}

/// A low-rank branch on what the codes lose (LoRC, Yao et al., arXiv 2303.08302).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Branch {
    /// Its rank.
    pub rank: usize,
    /// What it repairs.
    pub metric: BranchMetric,
    /// Number format of its factors.
    pub factors: FactorFormat,
    /// How often codes and branch are solved in turn: 1 solves the branch once, on the codes' error; each further round
    /// solves the codes for what the branch leaves of the weight, and the branch again.
    pub rounds: usize,
}

impl Default for Branch {
    /// Rank 8 in E4M3 on the layer's output, two rounds.
    fn default() -> Self {
        Self { rank: 8, metric: BranchMetric::default(), factors: FactorFormat::E4M3, rounds: 2 }
    }
}

/// What a low-rank branch repairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BranchMetric {
    /// The weight, as the paper.
    Plain,
    /// The output on the calibration data; without data, the weight.
    #[default]
    Activation,
}

/// A Hessian made ready for every layer that reads its input.
pub(super) struct Ready<'h> {
    hessian: &'h Hessian,
    /// `None` when no token reached the layer.
    solvers: Option<Solvers<'h>>,
    metric: Metric,
}

struct Solvers<'h> {
    gptq: Gptq<'h>,
    /// When layers make up for earlier ones.
    correction: Option<Correction>,
}

impl<'h> Ready<'h> {
    /// Factors `hessian` as often as the recipe needs, and once more if layers make up for earlier ones.
    pub(super) fn new(hessian: &'h Hessian, recipe: &Recipe, corrects: bool) -> Result<Self, SolveError> {
        let solvers = match Gptq::new(hessian, recipe.gptq) {
            Ok(gptq) => {
                let correction = corrects.then(|| Correction::new(hessian)).transpose()?;
                Some(Solvers { gptq, correction })
            }
            Err(SolveError::NoTokens) => None,
            Err(error) => return Err(error),
        };
        let metric = match recipe.branch {
            Some(Branch { metric: BranchMetric::Activation, .. }) => Metric::activation(hessian),
            _ => Metric::plain(),
        };
        Ok(Self { hessian, solvers, metric })
    }
}

/// What is known of a layer's activations.
#[derive(Default)]
pub(super) struct Evidence<'a> {
    /// `None` without calibration data.
    pub ready: Option<&'a Ready<'a>>,
    /// What the layer's output lacks because of the layers before it.
    pub lack: Option<&'a CrossMoment>,
    /// The share of it that the layer makes up for.
    pub share: f64,
}

/// Errors of a solved layer.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Errors {
    /// `|W - Ŵ| / |W|`.
    pub weight: f64,
    /// `|X(W - Ŵ)ᵀ| / |X Wᵀ|`, when there was data.
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

impl Recipe {
    /// Solves `weight` `[rows, cols]`.
    pub(super) fn solve(
        &self,
        weight: &[f32],
        rows: usize,
        cols: usize,
        evidence: Evidence,
    ) -> Result<Solution, SolveError> {
        let solvers = evidence.ready.and_then(|ready| ready.solvers.as_ref());
        let correction = solvers.and_then(|solvers| solvers.correction.as_ref());
        let corrected = match (correction, evidence.lack) {
            (Some(correction), Some(lack)) => Some(correction.apply(weight, rows, lack, evidence.share)?),
            _ => None,
        };
        let target = corrected.as_deref().unwrap_or(weight);
        let code = |weight: &[f32]| match solvers {
            Some(solvers) => Ok(solvers.gptq.solve(weight, rows)?.matrix),
            None => rtn(weight, rows, cols, &self.gptq.grouping),
        };
        let errors = |approximation: &[f32]| Errors {
            weight: relative_error(approximation, weight),
            output: evidence
                .ready
                .filter(|ready| ready.solvers.is_some())
                .map(|ready| ready.hessian.relative_output_error(approximation, target).sqrt()),
        };
        let mut matrix = code(target)?;
        let mut dense = matrix.dequantize();
        let before = errors(&dense);
        let Some(options) = &self.branch else {
            return Ok(Solution { matrix, branch: None, before, after: before });
        };
        let plain = Metric::plain();
        let metric = evidence.ready.map_or(&plain, |ready| &ready.metric);
        let branch_of = |dense: &[f32]| {
            let error = difference(target, dense);
            lorc(&error, rows, cols, options.rank, metric, options.factors)
        };
        let mut branch = branch_of(&dense)?;
        for _ in 1..options.rounds {
            matrix = code(&difference(target, &branch.dense()))?;
            dense = matrix.dequantize();
            branch = branch_of(&dense)?;
        }
        dense.iter_mut().zip(branch.dense()).for_each(|(weight, branch)| *weight += branch);
        Ok(Solution { after: errors(&dense), matrix, branch: Some(branch), before })
    }
}

fn difference(whole: &[f32], part: &[f32]) -> Vec<f32> {
    whole.iter().zip(part).map(|(whole, part)| whole - part).collect()
}
