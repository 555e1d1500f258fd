//! How far a model that was just quantized is from the float one, on calibration tokens that it was not solved on.

use std::fmt;

use serde::Serialize;
use zqc_ir::Model;
use zqc_passes::{PassError, vocabulary};
use zqc_runtime::{Backend, InputSpec, Interpreter, Prepared, token_input};

use super::divergence::{Comparison, Divergences};
use super::language_model::Logits;
use crate::calibration::logits_output;
use crate::error::Error;
use crate::verify::Inputs;

/// The quantized model beside the float one, on calibration tokens that weights were not solved on.
#[derive(Debug, Clone, Serialize)]
pub struct HeldOutReport {
    /// Predicted tokens.
    pub tokens: usize,
    /// The perplexity of the quantized model.
    pub perplexity: f64,
    /// What the float model says.
    #[serde(flatten)]
    pub comparison: Comparison,
}

impl fmt::Display for HeldOutReport {
    /// Two lines.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { tokens, perplexity, comparison } = self;
        let Comparison { perplexity: float, ln_ratio, kl, same_top, .. } = comparison;
        let (change, error) = (100.0 * ln_ratio.mean.exp_m1(), 100.0 * ln_ratio.error);
        writeln!(
            f,
            "perplexity {perplexity:.2} for {float:.2} ({change:+.1} % +- {error:.1} %) on {tokens} tokens that were held out"
        )?;
        write!(
            f,
            "KL divergence {:.4} +- {:.4} nats a token, the same most likely for {:.1} % +- {:.1} %",
            kl.mean.mean,
            kl.mean.error,
            100.0 * same_top.mean,
            100.0 * same_top.error
        )
    }
}

/// Runs both models on samples; `None` where they are no language models, or there is nothing to compare.
///
/// # Errors
/// When a model cannot be run, or gives logits that are not finite; [`PassError::Stopped`] when `stopped` says so.
pub(crate) fn compare_held_out(
    quantized: &Model,
    float: &Model,
    samples: &[Inputs],
    backend: &dyn Backend,
    stopped: &dyn Fn() -> bool,
) -> Result<Option<HeldOutReport>, Error> {
    let specs = InputSpec::of_graph(&float.graph)?;
    let Some(input) = token_input(&specs).map(|input| input.name.as_str()) else { return Ok(None) };
    let logits = |model: &Model| logits_output(model, vocabulary(&float.graph, input)?);
    let (Some(ours), Some(theirs)) = (logits(quantized), logits(float)) else { return Ok(None) };
    let ours = Interpreter::new(quantized, backend, vec![ours])?;
    let theirs = Interpreter::new(float, backend, vec![theirs])?;
    let (mut run_ours, mut run_theirs) = (ours.prepare()?, theirs.prepare()?);
    let (mut nll, mut tokens, mut divergences) = (0.0, 0, Divergences::default());
    for sample in samples {
        if stopped() {
            return Err(PassError::Stopped.into());
        }
        let ids = sample.iter().find(|(name, _)| name == input).and_then(|(_, ids)| ids.to_i64());
        let Some(ids) = ids.filter(|ids| ids.len() > 1) else { continue };
        let reference = run(&theirs, &mut run_theirs, sample, ids.len())?;
        let predicted = run(&ours, &mut run_ours, sample, ids.len())?;
        let (Some(reference), Some(predicted)) = (reference, predicted) else { return Ok(None) };
        nll += divergences.add(&predicted.rows(), &reference.rows(), &ids[1..]);
        tokens += ids.len() - 1;
    }
    if tokens == 0 {
        return Ok(None);
    }
    let (perplexity, comparison) = ((nll / tokens as f64).exp(), divergences.comparison(String::new()));
    if !(perplexity.is_finite() && comparison.perplexity.is_finite()) {
        return Err(Error::Model("logits of held-out tokens are not finite".to_string()));
    }
    Ok(Some(HeldOutReport { tokens, perplexity, comparison }))
}

/// The logits after each of the tokens of a sample; `None` where there are none for each.
fn run(
    interpreter: &Interpreter,
    prepared: &mut Prepared,
    sample: &Inputs,
    tokens: usize,
) -> Result<Option<Logits>, Error> {
    let live = interpreter.feed(sample.iter().map(|(name, array)| (name.as_str(), array.clone())));
    Ok(prepared.run(live)?.pop().and_then(|logits| Logits::new(logits, tokens)))
}
