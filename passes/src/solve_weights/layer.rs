//! How one weight is solved on what is known of its layers' activations.

use zqc_formats::{LowRank, QuantizedMatrix, relative_error};
use zqc_solvers::{Correction, Gptq, HeldOut, Hessian, Metric, SolveError, lorc, rtn};

use super::config::{Errors, LowRankConfig, LowRankMetric, QuantConfig, Solution};
use super::gather::OutputResidual;
use super::tokens::CalibrationTokens;
use crate::record::{CalibrationRecord, HeldOutRecord};

/// Calibration tokens made ready for every layer that reads them.
pub(super) struct Prepared<'t> {
    tokens: &'t CalibrationTokens,
    /// `None` when no token, or nothing but zeros, reached the layer.
    gptq: Option<Gptq>,
    /// When layers make up for earlier ones.
    correction: Option<Correction>,
    metric: Metric,
}

impl<'t> Prepared<'t> {
    /// Factors the Hessian for GPTQ, and once more if layers make up for earlier ones. They do not where tokens are few: what
    /// a few tokens lack says little of others.
    pub(super) fn new(
        tokens: &'t CalibrationTokens,
        config: &QuantConfig,
        corrects: bool,
    ) -> Result<Self, SolveError> {
        let hessian = tokens.hessian();
        let gptq = match Gptq::new(hessian, config.gptq) {
            Ok(gptq) => Some(gptq),
            Err(SolveError::NoTokens) => None,
            Err(error) => return Err(error),
        };
        let corrects = corrects && gptq.is_some() && tokens.held_out().is_none();
        let metric = match config.branch {
            Some(LowRankConfig { metric: LowRankMetric::Activation, .. }) => Metric::activation(hessian),
            _ => Metric::plain(),
        };
        Ok(Self { tokens, gptq, correction: corrects.then(|| Correction::new(hessian)).transpose()?, metric })
    }
}

/// What is known of a layer's activations.
#[derive(Default)]
pub(super) struct LayerStats<'a> {
    /// `None` without calibration data.
    pub prepared: Option<&'a Prepared<'a>>,
    /// What the layer's output lacks of the float model's because of the layers before it.
    pub residual: Option<&'a OutputResidual>,
    /// The share of it that the layer makes up for.
    pub propagation: f64,
}

/// A weight `[rows, cols]` to solve.
#[derive(Clone, Copy)]
pub(super) struct Weight<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub cols: usize,
}

/// The tokens that tell the error of a layer's output.
#[derive(Clone, Copy)]
enum Outputs<'a> {
    Of(&'a Hessian),
    OfHeldOut(&'a HeldOut),
    Unknown,
}

impl Outputs<'_> {
    /// The sum of squares of `m`'s output; `None` without a token.
    fn energy(self, m: &[f32]) -> Option<f64> {
        match self {
            Self::Of(hessian) => Some(hessian.output_energy(m)),
            Self::OfHeldOut(tokens) => Some(tokens.output_energy(m)),
            Self::Unknown => None,
        }
    }
}

/// What solutions of a weight are compared with.
struct Reference<'a> {
    weight: &'a [f32],
    /// The weight that is solved for: the weight itself, or one that makes up for earlier layers.
    target: &'a [f32],
    outputs: Outputs<'a>,
    /// Of the target's output: it is the same for every solution, and costs as much as an error does.
    energy: Option<f64>,
}

impl<'a> Reference<'a> {
    fn new(weight: &'a [f32], target: &'a [f32], outputs: Outputs<'a>) -> Self {
        Self { weight, target, outputs, energy: outputs.energy(target) }
    }

    fn errors(&self, approximation: &[f32]) -> Errors {
        let error = |energy: f64| {
            let lost = self.outputs.energy(&difference(self.target, approximation))?;
            Some(if lost == 0.0 { 0.0 } else { (lost / energy).sqrt() })
        };
        Errors { weight: relative_error(approximation, self.weight), output: self.energy.and_then(error) }
    }
}

impl QuantConfig {
    /// Solves a weight. Where calibration tokens are few, GPTQ is taken only if its codes are better than those of rounding to
    /// nearest on the tokens that are held out.
    pub(super) fn solve(&self, weight: Weight, stats: LayerStats) -> Result<Solution, SolveError> {
        let Weight { values, rows, .. } = weight;
        let Some(prepared) = stats.prepared else {
            return self.round(weight, Outputs::Unknown, None);
        };
        let tokens = prepared.tokens;
        let calibration = CalibrationRecord {
            tokens: tokens.count(),
            dead_features: tokens.hessian().dead_features(),
            unmatched_tokens: stats.residual.map_or(0, |residual| residual.unmatched),
            held_out: None,
        };
        let known = |solution| Solution { calibration: Some(calibration), ..solution };
        let Some(gptq) = &prepared.gptq else {
            return self.round(weight, Outputs::Unknown, None).map(known);
        };
        let code = |weight: &[f32]| gptq.solve(weight, rows);
        let Some(held_out) = tokens.held_out() else {
            let corrected = match (&prepared.correction, stats.residual) {
                (Some(correction), Some(residual)) => {
                    Some(correction.apply(values, rows, &residual.moment, stats.propagation)?)
                }
                _ => None,
            };
            let target = corrected.as_deref().unwrap_or(values);
            let reference = Reference::new(values, target, Outputs::Of(tokens.hessian()));
            return self.code(weight, &reference, &prepared.metric, code(target)?, code).map(known);
        };
        if held_out.tokens() == 0 {
            return self.round(weight, Outputs::Unknown, None).map(known);
        }
        let outputs = Outputs::OfHeldOut(held_out);
        let reference = Reference::new(values, values, outputs);
        let (solved, rounded) = (code(values)?, self.rounded(weight)?);
        let [gptq_error, rtn_error] =
            [&solved, &rounded].map(|codes| reference.errors(&codes.dequantize()).output.unwrap_or(0.0));
        let record = HeldOutRecord { tokens: held_out.tokens(), gptq_error, rtn_error };
        let solution = if record.takes_gptq() {
            self.code(weight, &reference, &prepared.metric, solved, code)
        } else {
            self.round(weight, outputs, Some(rounded))
        };
        let calibration = CalibrationRecord { held_out: Some(record), ..calibration };
        Ok(Solution { calibration: Some(calibration), ..solution? })
    }

    /// Rounds a weight to nearest, with a branch that needs no data. Its codes may be `known`.
    fn round(
        &self,
        weight: Weight,
        outputs: Outputs,
        known: Option<QuantizedMatrix>,
    ) -> Result<Solution, SolveError> {
        let reference = Reference::new(weight.values, weight.values, outputs);
        let codes = known.map_or_else(|| self.rounded(weight), Ok)?;
        let code = |values: &[f32]| self.rounded(Weight { values, ..weight });
        self.code(weight, &reference, &Metric::plain(), codes, code)
    }

    /// The codes of rounding to nearest.
    fn rounded(&self, Weight { values, rows, cols }: Weight) -> Result<QuantizedMatrix, SolveError> {
        rtn(values, rows, cols, &self.gptq.grouping)
    }

    /// Solves the branch of a weight whose target has the codes `matrix`; and the codes again, by `code`, in turn with it.
    fn code(
        &self,
        Weight { rows, cols, .. }: Weight,
        reference: &Reference,
        metric: &Metric,
        mut matrix: QuantizedMatrix,
        code: impl Fn(&[f32]) -> Result<QuantizedMatrix, SolveError>,
    ) -> Result<Solution, SolveError> {
        let target = reference.target;
        let mut dense = matrix.dequantize();
        let before = reference.errors(&dense);
        let Some(options) = &self.branch else {
            return Ok(Solution { matrix, branch: None, before, after: before, calibration: None });
        };
        let branch_of = |dense: &[f32]| -> Result<LowRank, SolveError> {
            lorc(&difference(target, dense), rows, cols, options.rank, metric, options.factors)
        };
        let mut branch = branch_of(&dense)?;
        for _ in 1..options.rounds {
            matrix = code(&difference(target, &branch.dense()))?;
            dense = matrix.dequantize();
            branch = branch_of(&dense)?;
        }
        dense.iter_mut().zip(branch.dense()).for_each(|(weight, branch)| *weight += branch);
        let after = reference.errors(&dense);
        Ok(Solution { matrix, branch: Some(branch), before, after, calibration: None })
    }
}

fn difference(whole: &[f32], part: &[f32]) -> Vec<f32> {
    whole.iter().zip(part).map(|(whole, part)| whole - part).collect()
}
