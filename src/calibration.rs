//! The samples that a model is calibrated on: from files, or written by the model itself.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zqc_ir::Model;
use zqc_ir::tensor::DataType;
use zqc_passes::{PassError, vocabulary};
use zqc_runtime::{
    Array, Backend, Dimension, InputSpec, Interpreter, Sample, SampleOptions, Tokenizer, load_calibration,
    make_inputs, synthesize, token_input,
};

use crate::compiler::Events;
use crate::error::Error;
use crate::options::Options;
use crate::resume::State;

/// Tokens of a passage that the model writes in one go.
const PASSAGE: usize = 32;
/// The text is the same in every run.
const SEED: u64 = 0;

/// Tokens of a sample of a file, unless the model or the options say otherwise.
const LENGTH: usize = 2048;

/// Inputs of the model by name, one entry a sample, and where they come from, in words.
pub(crate) struct Samples {
    pub inputs: Vec<Vec<(String, Array)>>,
    /// Where each sample is in the files; of text that the model wrote itself, nowhere.
    pub places: Vec<String>,
    pub origin: String,
}

impl Samples {
    /// No samples: weights are rounded to nearest.
    pub fn none() -> Self {
        let origin = "none: weights are rounded to nearest".to_string();
        Self { inputs: Vec::new(), places: Vec::new(), origin }
    }

    /// An error of calibration with the place of the sample that it comes of.
    pub fn named(&self, error: Error) -> Error {
        match error {
            Error::Pass(PassError::Sample { sample, source }) if sample < self.places.len() => {
                Error::Sample { place: self.places[sample].clone(), source }
            }
            other => other,
        }
    }
}

/// What the callers of `model` must feed.
pub(crate) fn input_specs(model: &Model) -> Result<Vec<InputSpec>, Error> {
    let graph = &model.graph;
    let infos = graph.required_inputs().map(|id| graph.value(id).info.clone().unwrap_or_default());
    Ok(infos.map(|info| InputSpec::of_input(&info)).collect::<Result<_, _>>()?)
}

/// The `tokenizer.json` that lies beside a model, or else one folder above it, as exporters put it.
pub fn find_tokenizer(model: &Path) -> Option<PathBuf> {
    let folder = match model.parent()? {
        folder if folder.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    let paths = [folder, &folder.join("..")].map(|folder| folder.join("tokenizer.json"));
    paths.into_iter().find(|path| path.is_file())
}

/// The calibration samples that `options` ask for, of the model in the file `source`. What the model writes itself is kept in
/// `state`.
pub(crate) fn samples(
    model: &Model,
    source: Option<&Path>,
    options: &Options,
    backend: &dyn Backend,
    state: Option<&State>,
    events: &mut dyn Events,
) -> Result<Samples, Error> {
    let specs = input_specs(model)?;
    if options.calibration.is_empty() {
        return written(model, &specs, options, backend, state, events);
    }
    let found = OnceCell::new();
    let tokenizer = || {
        let beside = || source.and_then(find_tokenizer).map(|path| found.get_or_init(|| path).clone());
        let path = options.tokenizer.clone().or_else(beside);
        path.map(|path| Tokenizer::load(&path).map(Arc::new)).transpose()
    };
    let tokens = token_input(&specs);
    let fixed = tokens.and_then(|tokens| match tokens.shape.as_deref() {
        Some([_, Dimension::Fixed(length)]) => Some(*length),
        _ => None,
    });
    let loaded = load_calibration(
        &options.calibration,
        &SampleOptions {
            specs: &specs,
            vocabulary: tokens.and_then(|tokens| vocabulary(model, &tokens.name)),
            tokenizer: &tokenizer,
            samples: options.samples.unwrap_or(128),
            seq_len: options.seq_len.or(fixed).unwrap_or(LENGTH),
            bos: options.bos,
        },
    );
    if let Some(path) = found.get() {
        events.tokenizer_found(path);
    }
    let loaded = loaded?;
    let inputs = loaded.iter().map(|loaded| make_inputs(&specs, &loaded.sample));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let files: Vec<_> = options.calibration.iter().map(|path| path.display().to_string()).collect();
    let origin = format!("{} samples of {}", inputs.len(), files.join(", "));
    let places = loaded.into_iter().map(|loaded| loaded.place).collect();
    Ok(Samples { inputs, places, origin })
}

/// Text that a causal language model samples from its own logits.
fn written(
    model: &Model,
    specs: &[InputSpec],
    options: &Options,
    backend: &dyn Backend,
    state: Option<&State>,
    events: &mut dyn Events,
) -> Result<Samples, Error> {
    let cannot = |why: &str| {
        Error::Model(format!(
            "the model cannot write its own calibration text: {why}; give --calibration, or use --method rtn"
        ))
    };
    let tokens = token_input(specs).ok_or_else(|| cannot("it has no token input"))?.name.clone();
    let vocabulary = vocabulary(model, &tokens).ok_or_else(|| cannot("its vocabulary is not known"))?;
    let logits = logits_output(model, vocabulary).ok_or_else(|| cannot("it has no logits"))?;
    if let Some(bos) = options.bos.filter(|&bos| bos >= vocabulary as i64) {
        return Err(Error::Model(format!("--bos {bos}: the model knows only {vocabulary} tokens")));
    }
    let (count, length) = (options.samples.unwrap_or(16), options.seq_len.unwrap_or(512));
    let interpreter = Interpreter::new(model, backend, vec![logits])?;
    let mut prepared = interpreter.prepare()?;
    let inputs = |sequence: &[i64]| {
        let given = Sample::from([(tokens.clone(), Array::sequence(sequence.to_vec()))]);
        make_inputs(specs, &given)
    };
    let (mut runs, all) = (0, count * (PASSAGE.min(length) - 1));
    let mut run = |sequence: &[i64]| -> Result<Array, Error> {
        events.step_advanced(runs, all);
        runs += 1;
        let inputs = inputs(sequence)?;
        let live = interpreter.feed(inputs.iter().map(|(name, array)| (name.as_str(), array.clone())));
        let mut results = prepared.run(live)?;
        results.pop().ok_or_else(|| cannot("it has no logits"))
    };
    let sequences = match state.and_then(State::text) {
        Some(sequences) => sequences,
        None => {
            let sequences = synthesize(vocabulary, count, length, options.bos, SEED, PASSAGE, &mut run)
                .map_err(|error| Error::Model(error.to_string()))?;
            state.into_iter().for_each(|state| state.store_text(&sequences));
            sequences
        }
    };
    let inputs = sequences.iter().map(|s| inputs(s)).collect::<Result<Vec<_>, _>>()?;
    let origin = format!("{count} samples of {length} tokens that the model wrote itself");
    Ok(Samples { inputs, places: Vec::new(), origin })
}

/// The output that holds the logits: the one so named, else the first of floats whose declared width is the
/// vocabulary.
pub(crate) fn logits_output(model: &Model, vocabulary: usize) -> Option<zqc_ir::ValueId> {
    let graph = &model.graph;
    if let Some(id) = graph.find("logits").filter(|&id| graph.is_output(id)) {
        return Some(id);
    }
    graph.outputs().iter().copied().find(|&id| {
        let spec = graph.value(id).info.as_ref().and_then(|info| InputSpec::of_input(info).ok());
        spec.is_some_and(|spec| {
            let float = matches!(spec.data_type, DataType::Float | DataType::Float16 | DataType::Bfloat16);
            let width = spec.shape.as_ref().and_then(|dims| dims.last());
            float && matches!(width, Some(Dimension::Fixed(width)) if *width == vocabulary)
        })
    })
}
