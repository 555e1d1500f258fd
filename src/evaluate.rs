//! Perplexity by the protocol of the GPTQ paper: the text in consecutive windows that do not overlap, every token of a
//! window but its first predicted from those before it in the window.

use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;
use zqc_ir::Op;
use zqc_passes::{PassError, vocabulary};
use zqc_runtime::{
    Array, InputSpec, Interpreter, RunError, Sample, Tokenizer, backend, make_inputs, token_input,
};

use crate::calibration::{LENGTH, length, logits_output, too_long};
use crate::error::Error;
use crate::raise::raise;
use crate::report::LibraryReport;

/// What to evaluate and how.
#[derive(Debug, Clone)]
pub struct Evaluation<'a> {
    /// The model: any ONNX language model, or one that zqc wrote.
    pub model: &'a Path,
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
    /// The model's path.
    pub model: String,
    /// The text's path.
    pub text: String,
    /// The ONNX Runtime that ran what the embedded back end cannot; `None` where it was not needed.
    pub onnxruntime: Option<LibraryReport>,
}

/// Measures the perplexity of a model on a text; `progress` hears how many windows of how many are done, and may end the run.
///
/// A last window that is not full counts only when it is the only one.
///
/// # Errors
/// When a file cannot be read, the model is no language model, or the text is shorter than two tokens; [`PassError::Stopped`] when
/// `progress` says so.
pub fn evaluate(
    evaluation: &Evaluation,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Perplexity, Error> {
    if evaluation.window.is_some_and(|window| window < 2) {
        return Err(Error::Usage("--window: a window needs at least two tokens".to_string()));
    }
    let backend = backend(evaluation.backend, evaluation.threads)?;
    let mut model = zqc_ir::read(evaluation.model)?;
    raise(&mut model)?;
    let specs = InputSpec::of_graph(&model.graph)?;
    let not_a_language_model = |missing: &str| {
        Error::Model(format!("{:?} is no language model: it has no {missing}", evaluation.model))
    };
    let input = token_input(&specs).ok_or_else(|| not_a_language_model("token input"))?;
    let vocabulary = vocabulary(&model.graph, &input.name)
        .ok_or_else(|| not_a_language_model("embedding table of its tokens"))?;
    let logits = logits_output(&model, vocabulary).ok_or_else(|| not_a_language_model("logits"))?;
    let window = evaluation.window.unwrap_or_else(|| length(&model, Some(input), LENGTH));
    let windows = windows(evaluation, window, vocabulary)?;

    let unrunnable = |error: RunError| {
        if !model.graph.nodes().any(|(_, node)| dequantizes_blocks(&node.op)) {
            return match (&error, evaluation.window) {
                (RunError::Backend(_), None) => {
                    Error::Model(format!("{error}{}", too_long(window, "--window")))
                }
                _ => Error::Run(error),
            };
        }
        let reason =
            "is native ONNX, for importers; evaluate what --target portable makes of the same source";
        Error::Model(format!("{:?} {reason} ({error})", evaluation.model))
    };
    let interpreter = Interpreter::new(&model, backend.as_ref(), vec![logits])?;
    let mut prepared = interpreter.prepare().map_err(unrunnable)?;
    let (mut sum, mut tokens) = (0.0, 0);
    for (done, window) in windows.iter().enumerate() {
        if progress(done, windows.len()).is_break() {
            return Err(PassError::Stopped.into());
        }
        let given = Sample::from([(input.name.clone(), Array::sequence(window.clone()))]);
        let inputs = make_inputs(&specs, &given)?;
        let live = interpreter.feed(inputs.iter().map(|(name, array)| (name.as_str(), array.clone())));
        let results = prepared.run(live).map_err(unrunnable)?;
        let rows = logits_of_every_token(&results, window)
            .ok_or_else(|| not_a_language_model("float logits for every token of a window"))?;
        sum += rows.zip(&window[1..]).map(|(row, &next)| nll(row, next)).sum::<f64>();
        tokens += window.len() - 1;
    }
    let _ = progress(windows.len(), windows.len()); // nothing is left to stop
    let nll = sum / tokens as f64;
    if !nll.is_finite() {
        return Err(Error::Model(format!("{:?} gives logits that are not finite", evaluation.model)));
    }
    Ok(Perplexity {
        perplexity: nll.exp(),
        tokens,
        window: windows[0].len(),
        nll,
        model: evaluation.model.display().to_string(),
        text: evaluation.text.display().to_string(),
        onnxruntime: backend.used_library().map(LibraryReport::from),
    })
}

/// Whether this is how native files hold weights.
fn dequantizes_blocks(op: &Op) -> bool {
    op.as_standard("DequantizeLinear").is_some_and(|node| node.int_or("block_size", 0) > 0)
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

/// The rows of the logits `[batch, tokens, vocabulary]` of a window, which is all of a batch that the model may have fixed; `None` when
/// they are anything else.
fn logits_of_every_token<'a>(
    results: &'a [Array],
    window: &[i64],
) -> Option<impl Iterator<Item = &'a [f32]> + use<'a>> {
    let [logits] = results else { return None };
    match logits.shape[..] {
        [batch, tokens, vocabulary] if batch > 0 && tokens == window.len() && vocabulary > 0 => {
            Some(logits.as_f32()?.chunks_exact(vocabulary).take(tokens))
        }
        _ => None,
    }
}

/// `-ln softmax(logits)[token]`, in nats.
fn nll(logits: &[f32], token: i64) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    let chosen = usize::try_from(token).ok().and_then(|token| logits.get(token));
    sum.ln() - chosen.map_or(f64::NEG_INFINITY, |&x| f64::from(x - max))
}

#[cfg(test)]
mod tests {
    use super::nll;

    #[test]
    fn a_uniform_model_has_the_entropy_of_its_vocabulary() {
        assert!((nll(&[3.0; 8], 5) - 8f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        assert!((nll(&[1000.0, 999.0], 0) - (1.0 + (-1f64).exp()).ln()).abs() < 1e-6);
    }
}
