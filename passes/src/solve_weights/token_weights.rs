//! How much every calibration token counts: by what an error of the layer's output on it does to the end loss (guided Hessians:
//! Kim et al., GuidedQuant, arXiv 2505.07004; here one weight a token for all layers that read an activation, and its root).

use std::borrow::Cow;
use std::collections::HashMap;

use rayon::prelude::*;
use zqc_ir::{Model, ValueId};
use zqc_runtime::Array;

use super::{Calibration, Layer};
use crate::backpropagate::{Backpropagation, Loss};
use crate::pass::{Observer, PassError};
use crate::side_by_side::at_once;
use crate::softmax::log_softmax;

/// What tokens count in Hessians.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TokenWeights {
    /// All the same.
    #[default]
    Uniform,
    /// By the root of the mean square of the gradient at the outputs of the layers, of the log-likelihood of tokens that the model
    /// itself draws: the trace of the Fisher information there.
    Gradient,
}

/// Factors of the tokens that come to layers; none where all count the same.
#[derive(Debug, Default)]
pub(super) struct TokenFactors(HashMap<ValueId, Vec<Vec<f32>>>);

impl TokenFactors {
    /// Runs the samples of `calibration` through `model`, whose layers have float weights, and the gradients back.
    ///
    /// # Errors
    /// When the model has no logits, or a gradient cannot be computed.
    pub(super) fn new(
        model: &Model,
        layers: &[Layer],
        calibration: &Calibration,
        observer: &mut dyn Observer,
    ) -> Result<Self, PassError> {
        if calibration.token_weights == TokenWeights::Uniform {
            return Ok(Self::default());
        }
        let name = calibration.reference.map(|of| of.model.graph.value(of.logits).name.as_str());
        let Some(logits) = name.and_then(|name| model.graph.find(name)) else {
            return Err(PassError::Unsupported {
                what: "weights of tokens by gradient need the logits of a language model, and this one has none that are known"
                    .into(),
                way_out: "use --token-weights uniform".into(),
            });
        };
        let output = |layer: &Layer| Some((model.graph.node(layer.id).output(0)?, layer.x));
        let inputs: HashMap<ValueId, ValueId> = layers.iter().filter_map(output).collect();
        let backward =
            Backpropagation::new(model, logits, inputs.keys().copied().collect(), calibration.backend)?;
        let mut loss = Likelihood::default();
        let at_once = calibration.samples.first().map_or(1, at_once);
        let outcome = backward.run(calibration.samples, at_once, &mut loss, observer)?;
        let energies = loss.energies;
        outcome.stopped.iter().for_each(|at| observer.gradient_stopped(&at.node, at.reason));
        let mut weights: HashMap<ValueId, Vec<Vec<f32>>> = HashMap::new();
        for (output, energies) in energies {
            let tokens: usize = energies.iter().map(Vec::len).sum();
            let roots: Vec<Vec<f32>> =
                energies.into_iter().map(|all| all.into_iter().map(f32::sqrt).collect()).collect();
            let sum: f64 = roots.iter().flatten().map(|&root| f64::from(root)).sum();
            let mean = (sum / tokens.max(1) as f64) as f32;
            if !(mean.is_finite() && mean > 0.0) {
                continue;
            }
            let of_input = weights.entry(inputs[&output]).or_default();
            of_input.resize(roots.len().max(of_input.len()), Vec::new());
            for (sums, roots) in of_input.iter_mut().zip(roots) {
                sums.resize(roots.len(), 0.0);
                sums.iter_mut().zip(roots).for_each(|(sum, root)| *sum += root / mean);
            }
        }
        weights.values_mut().flatten().flatten().for_each(|weight| *weight = weight.sqrt());
        Ok(Self(weights))
    }

    /// The tokens `[T, width]` of input `x` on a sample, times the roots of their weights.
    pub(super) fn scaled<'v>(
        &self,
        x: ValueId,
        sample: usize,
        values: &'v [f32],
        width: usize,
    ) -> Cow<'v, [f32]> {
        let factors = self.0.get(&x).and_then(|samples| samples.get(sample));
        // An expert's tokens may be others than those of the float model.
        let Some(factors) = factors.filter(|factors| factors.len() * width == values.len()) else {
            return Cow::Borrowed(values);
        };
        let rows = values.chunks_exact(width).zip(factors);
        rows.flat_map(|(row, factor)| row.iter().map(move |value| value * factor)).collect()
    }
}

/// The negative log-likelihood of tokens drawn from the model's own predictions.
#[derive(Default)]
struct Likelihood {
    /// The mean squares of the gradients at outputs: by sample and token.
    energies: HashMap<ValueId, Vec<Vec<f32>>>,
}

impl Loss for Likelihood {
    fn of_logits(&self, sample: usize, logits: &Array) -> Result<(Vec<f64>, Array), PassError> {
        let width = logits.shape.last().copied().unwrap_or(1).max(1);
        let values = logits.as_f32().unwrap_or_default();
        // Draws are the same in every run, whichever sample comes first.
        let mut random = fastrand::Rng::with_seed(sample as u64);
        let draws: Vec<f32> = (0..values.len() / width).map(|_| random.f32()).collect();
        let mut gradient = vec![0.0; values.len()];
        let rows = gradient.par_chunks_exact_mut(width).zip(values.par_chunks_exact(width)).zip(draws);
        let of_row = |((gradient, logits), draw): ((&mut [f32], &[f32]), f32)| {
            let ln = log_softmax(logits);
            gradient.iter_mut().zip(&ln).for_each(|(probability, ln)| *probability = ln.exp());
            let mut rest = draw;
            let drawn = gradient.iter().position(|probability| {
                rest -= probability;
                rest < 0.0
            });
            let drawn = drawn.unwrap_or(width - 1);
            gradient[drawn] -= 1.0;
            f64::from(-ln[drawn])
        };
        let losses = rows.map(of_row).collect();
        Ok((losses, Array { shape: logits.shape.clone(), data: gradient.into() }))
    }

    fn take(&mut self, sample: usize, value: ValueId, gradient: &Array) {
        let width = gradient.shape.last().copied().unwrap_or(1).max(1);
        let energy = |row: &[f32]| row.iter().map(|g| g * g).sum::<f32>() / width as f32;
        let tokens = gradient.as_f32().unwrap_or_default().chunks_exact(width).map(energy).collect();
        let samples = self.energies.entry(value).or_default();
        samples.resize(samples.len().max(sample + 1), Vec::new());
        samples[sample] = tokens;
    }
}
