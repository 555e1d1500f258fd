//! How far a model that was just quantized is from the float one, on calibration tokens that it was not solved on.

use std::fmt;

use serde::Serialize;
use zqc_ir::Model;
use zqc_passes::{PassError, vocabulary};
use zqc_runtime::{Backend, InputSpec, Interpreter, token_input};

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
    let Some(vocabulary) = vocabulary(&float.graph, input) else { return Ok(None) };
    let [Some(ours), Some(theirs)] = [quantized, float].map(|model| logits_output(model, vocabulary)) else {
        return Ok(None);
    };
    let ours = Interpreter::new(quantized, backend, vec![ours])?;
    let theirs = Interpreter::new(float, backend, vec![theirs])?;
    let windows: Vec<Window> = samples.iter().filter_map(|inputs| Window::new(inputs, input)).collect();
    let (mut nll, mut tokens, mut divergences) = (0.0, 0, Divergences::default());
    for windows in batches(&windows, LOGITS / vocabulary.max(1)) {
        let Some(reference) = logits(&theirs, windows, stopped)? else { return Ok(None) };
        let Some(predicted) = logits(&ours, windows, stopped)? else { return Ok(None) };
        for (window, (reference, predicted)) in windows.iter().zip(reference.iter().zip(&predicted)) {
            nll += divergences.add(&predicted.rows(), &reference.rows(), &window.ids[1..]);
            tokens += window.ids.len() - 1;
        }
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

/// Logits that are in memory at once of each model, while the other one is not loaded.
const LOGITS: usize = 64 << 20;

/// A sample of at least two tokens.
struct Window<'s> {
    inputs: &'s Inputs,
    ids: Vec<i64>,
}

impl<'s> Window<'s> {
    fn new(inputs: &'s Inputs, tokens: &str) -> Option<Self> {
        let ids = inputs.iter().find(|(name, _)| name == tokens)?.1.to_i64()?;
        (ids.len() > 1).then_some(Self { inputs, ids })
    }
}

/// Windows that have at most so many tokens together, or are one.
fn batches<'w>(windows: &'w [Window<'w>], most: usize) -> impl Iterator<Item = &'w [Window<'w>]> {
    let mut tokens = windows.first().map_or(0, |window| window.ids.len());
    windows.chunk_by(move |_, next| {
        let fits = tokens + next.ids.len() <= most;
        tokens = next.ids.len() + if fits { tokens } else { 0 };
        fits
    })
}

/// The logits after each token of each window; `None` where there are none for each.
fn logits(
    interpreter: &Interpreter,
    windows: &[Window],
    stopped: &dyn Fn() -> bool,
) -> Result<Option<Vec<Logits>>, Error> {
    let prepared = interpreter.prepare()?;
    let mut all = Vec::new();
    for Window { inputs, ids } in windows {
        if stopped() {
            return Err(PassError::Stopped.into());
        }
        let live = interpreter.feed(inputs.iter().map(|(name, array)| (name.as_str(), array.clone())));
        let Some(logits) = prepared.run(live)?.pop().and_then(|logits| Logits::new(logits, ids.len())) else {
            return Ok(None);
        };
        all.push(logits);
    }
    Ok(Some(all))
}
