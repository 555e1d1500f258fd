//! Perplexity by the protocol of the GPTQ paper: the text in consecutive windows that do not overlap, every token of a
//! window but its first predicted from those before it in the window. Beside a reference, how far the predictions are from its.

mod divergence;
mod held_out;
mod language_model;

use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;
use zqc_passes::PassError;
use zqc_runtime::{Tokenizer, backend};

use crate::error::Error;
use crate::inspect::inspect;
use crate::report::LibraryReport;
pub use divergence::{Comparison, Distribution, Estimate};
use divergence::{Divergences, nll};
pub use held_out::HeldOutReport;
pub(crate) use held_out::compare_held_out;
use language_model::{LanguageModel, Runner};

/// What to evaluate and how.
#[derive(Debug, Clone)]
pub struct Evaluation<'a> {
    /// The model: any ONNX language model, or one that zqc wrote.
    pub model: &'a Path,
    /// A model to compare it with, as the float model that it was made of.
    pub reference: Option<&'a Path>,
    /// The text.
    pub text: &'a Path,
    /// Its tokenizer.
    pub tokenizer: &'a Path,
    /// Tokens of a window, the BOS token included; by default 2048, or as many as the model takes.
    pub window: Option<usize>,
    /// The most tokens of the text to use.
    pub max_tokens: Option<usize>,
    /// Token id that begins every window.
    pub bos: Option<i64>,
    /// Name of the back end.
    pub backend: &'a str,
    /// Threads; by default one a core.
    pub threads: Option<usize>,
}

/// The result of an [`Evaluation`].
#[derive(Debug, Clone, Serialize)]
pub struct Perplexity {
    /// `exp(nll)`.
    pub perplexity: f64,
    /// Predicted tokens.
    pub tokens: usize,
    /// Tokens of a window.
    pub window: usize,
    /// Mean negative log-likelihood of a predicted token, in nats.
    pub nll: f64,
    /// Bits stored for a weight of the linear layers, scales included; `None` where there are no such layers.
    pub bits_per_weight: Option<f64>,
    /// What the reference says; `None` without one.
    pub comparison: Option<Comparison>,
    /// The model's path.
    pub model: String,
    /// The text's path.
    pub text: String,
    /// The ONNX Runtime that ran what the embedded back end cannot; `None` where it was not needed.
    pub onnxruntime: Option<LibraryReport>,
}

/// Measures the perplexity of a model on a text, and how far it is from a reference; `progress` hears how many windows of how many are
/// done, and may end the run.
///
/// A last window that is not full counts only when it is the only one.
///
/// # Errors
/// When a file cannot be read, a model is no language model, the reference has another vocabulary, or the text is shorter than two
/// tokens; [`PassError::Stopped`] when `progress` says so.
pub fn evaluate(
    evaluation: &Evaluation,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Perplexity, Error> {
    if evaluation.window.is_some_and(|window| window < 2) {
        return Err(Error::Usage("--window: a window needs at least two tokens".to_string()));
    }
    let backend = backend(evaluation.backend, evaluation.threads)?;
    let model = LanguageModel::read(evaluation.model)?;
    let reference = evaluation.reference.map(LanguageModel::read).transpose()?;
    if let Some(reference) = reference.as_ref().filter(|other| other.vocabulary != model.vocabulary) {
        return Err(Error::Model(format!(
            "--reference: it knows {} tokens, and the model {}; they are no versions of one model",
            reference.vocabulary, model.vocabulary
        )));
    }
    let longest = [Some(&model), reference.as_ref()].into_iter().flatten().map(LanguageModel::window).min();
    let window = evaluation.window.or(longest).unwrap_or_default();
    let windows = windows(evaluation, window, model.vocabulary)?;
    let layers = inspect(evaluation.model)?;

    let interpreter = model.interpreter(backend.as_ref())?;
    let mut runner = Runner::new(&model, &interpreter, window, evaluation.window)?;
    let reference = reference.as_ref();
    let other = reference.map(|model| model.interpreter(backend.as_ref())).transpose()?;
    let other = reference.zip(other.as_ref());
    let other = other.map(|(model, interpreter)| Runner::new(model, interpreter, window, evaluation.window));
    let mut other = other.transpose()?;
    let (mut sum, mut tokens, mut divergences) = (0.0, 0, Divergences::default());
    for (done, window) in windows.iter().enumerate() {
        if progress(done, windows.len()).is_break() {
            return Err(PassError::Stopped.into());
        }
        let (logits, next) = (runner.logits(window)?, &window[1..]);
        sum += match &mut other {
            None => nll(&logits.rows(), next),
            Some(other) => divergences.add(&logits.rows(), &other.logits(window)?.rows(), next),
        };
        tokens += next.len();
    }
    let _ = progress(windows.len(), windows.len()); // nothing is left to stop
    let finite = |nll: f64, path: &Path| match nll.is_finite() {
        true => Ok(nll),
        false => Err(Error::Model(format!("{path:?} gives logits that are not finite"))),
    };
    let nll = finite(sum / tokens as f64, evaluation.model)?;
    let comparison = evaluation.reference.map(|path| {
        let comparison = divergences.comparison(path.display().to_string());
        finite(comparison.perplexity, path).map(|_| comparison)
    });
    Ok(Perplexity {
        perplexity: nll.exp(),
        tokens,
        window: windows[0].len(),
        nll,
        bits_per_weight: (layers.weights > 0).then_some(layers.bits_per_weight),
        comparison: comparison.transpose()?,
        model: evaluation.model.display().to_string(),
        text: evaluation.text.display().to_string(),
        onnxruntime: backend.used_library().map(LibraryReport::from),
    })
}

/// The windows of the text, as ids of the `vocabulary` of the model.
fn windows(evaluation: &Evaluation, window: usize, vocabulary: usize) -> Result<Vec<Vec<i64>>, Error> {
    if let Some(bos) = evaluation.bos.filter(|&bos| bos >= vocabulary as i64) {
        return Err(Error::Model(format!("--bos {bos}: the model knows only {vocabulary} tokens")));
    }
    let tokenizer = Tokenizer::load(evaluation.tokenizer)?;
    let text = std::fs::read_to_string(evaluation.text)
        .map_err(|source| Error::Model(format!("cannot read {:?}: {source}", evaluation.text)))?;
    let mut ids: Vec<i64> = tokenizer.encode(&text, Some(vocabulary))?.into_iter().map(i64::from).collect();
    ids.truncate(evaluation.max_tokens.unwrap_or(usize::MAX));
    let given = usize::from(evaluation.bos.is_some());
    let fresh = ids.len().min(window.saturating_sub(given));
    if fresh == 0 || fresh + given < 2 {
        let (text, count) = (evaluation.text, ids.len());
        return Err(Error::Model(format!(
            "{text:?} has {count} tokens, none of which follows another; use more"
        )));
    }
    Ok(ids
        .chunks_exact(fresh)
        .map(|chunk| evaluation.bos.into_iter().chain(chunk.iter().copied()).collect())
        .collect())
}
