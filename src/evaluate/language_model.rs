//! A language model that gives its logits for a window of tokens.

use std::path::Path;

use zqc_ir::{Model, Op, ValueId};
use zqc_passes::vocabulary;
use zqc_runtime::{
    Array, Backend, InputSpec, Interpreter, Prepared, RunError, Sample, make_inputs, token_input,
};

use crate::calibration::{LENGTH, length, logits_output, too_long};
use crate::error::Error;
use crate::raise::raise;

/// A model that reads token ids and gives logits.
pub(super) struct LanguageModel<'p> {
    path: &'p Path,
    model: Model,
    specs: Vec<InputSpec>,
    input: String,
    pub vocabulary: usize,
    logits: ValueId,
}

impl<'p> LanguageModel<'p> {
    pub fn read(path: &'p Path) -> Result<Self, Error> {
        let mut model = zqc_ir::read(path)?;
        raise(&mut model)?;
        let specs = InputSpec::of_graph(&model.graph)?;
        let lacks = |missing: &str| no_language_model(path, missing);
        let input = token_input(&specs).ok_or_else(|| lacks("token input"))?.name.clone();
        let vocabulary =
            vocabulary(&model.graph, &input).ok_or_else(|| lacks("embedding table of its tokens"))?;
        let logits = logits_output(&model, vocabulary).ok_or_else(|| lacks("logits"))?;
        Ok(Self { path, model, specs, input, vocabulary, logits })
    }

    /// The tokens of a window unless a caller says how many.
    pub fn window(&self) -> usize {
        length(&self.model, token_input(&self.specs), LENGTH)
    }

    pub fn interpreter<'a>(&'a self, backend: &'a dyn Backend) -> Result<Interpreter<'a>, Error> {
        Ok(Interpreter::new(&self.model, backend, vec![self.logits])?)
    }

    /// What an error of running windows of so many tokens means; `given` is what the caller asked for.
    fn unrunnable(&self, error: RunError, window: usize, given: Option<usize>) -> Error {
        if self.model.graph.nodes().any(|(_, node)| dequantizes_blocks(&node.op)) {
            let reason =
                "is native ONNX, for importers; evaluate what --target portable makes of the same source";
            return Error::Model(format!("{:?} {reason} ({error})", self.path));
        }
        match (&error, given) {
            (RunError::Backend(_), None) => Error::Model(format!("{error}{}", too_long(window, "--window"))),
            _ => Error::Run(error),
        }
    }
}

/// Whether this is how native files hold weights.
fn dequantizes_blocks(op: &Op) -> bool {
    op.as_standard("DequantizeLinear").is_some_and(|node| node.int_or("block_size", 0) > 0)
}

fn no_language_model(path: &Path, missing: &str) -> Error {
    Error::Model(format!("{path:?} is no language model: it has no {missing}"))
}

/// A language model, loaded.
pub(super) struct Runner<'a> {
    of: &'a LanguageModel<'a>,
    interpreter: &'a Interpreter<'a>,
    prepared: Prepared<'a>,
    window: Option<usize>,
}

impl<'a> Runner<'a> {
    /// Loads `interpreter` of the model `of`, to run windows of `tokens`; `window` is what the caller asked for.
    pub fn new(
        of: &'a LanguageModel,
        interpreter: &'a Interpreter<'a>,
        tokens: usize,
        window: Option<usize>,
    ) -> Result<Self, Error> {
        let prepared = interpreter.prepare().map_err(|error| of.unrunnable(error, tokens, window))?;
        Ok(Self { of, interpreter, prepared, window })
    }

    /// The logits after every token of a window.
    pub fn logits(&mut self, window: &[i64]) -> Result<Logits, Error> {
        let given = Sample::from([(self.of.input.clone(), Array::sequence(window.to_vec()))]);
        let inputs = make_inputs(&self.of.specs, &given)?;
        let live = self.interpreter.feed(inputs.iter().map(|(name, array)| (name.as_str(), array.clone())));
        let results =
            self.prepared.run(live).map_err(|error| self.of.unrunnable(error, window.len(), self.window))?;
        let logits = results.into_iter().next().and_then(|array| Logits::new(array, window.len()));
        logits.ok_or_else(|| no_language_model(self.of.path, "float logits for every token of a window"))
    }
}

/// Logits `[batch, tokens, vocabulary]` of a window, which is all of a batch that the model may have fixed.
pub(super) struct Logits {
    array: Array,
    tokens: usize,
    vocabulary: usize,
}

impl Logits {
    /// `None` when they are anything else.
    pub fn new(array: Array, window: usize) -> Option<Self> {
        array.as_f32()?;
        match array.shape[..] {
            [batch, tokens, vocabulary] if batch > 0 && tokens == window && vocabulary > 0 => {
                Some(Self { array, tokens, vocabulary })
            }
            _ => None,
        }
    }

    /// The row after each token.
    pub fn rows(&self) -> Vec<&[f32]> {
        let values = self.array.as_f32().unwrap_or_default();
        values.chunks_exact(self.vocabulary).take(self.tokens).collect()
    }
}
