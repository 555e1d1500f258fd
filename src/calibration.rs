//! The samples that a model is calibrated on: from files, or written by the model itself.

use std::path::Path;

use zqc_ir::Model;
use zqc_ir::tensor::DataType;
use zqc_passes::vocabulary;
use zqc_runtime::{
    Array, Backend, Dimension, InputSpec, Interpreter, Sample, Tokenizer, load_calibration, make_inputs,
    synthesize, token_input,
};

use crate::error::Error;
use crate::options::Options;
use crate::resume::State;

/// Tokens of a passage that the model writes in one go.
const PASSAGE: usize = 32;
/// The text is the same in every run.
const SEED: u64 = 0;

/// Inputs of the model by name, one entry a sample, and where they come from, in words.
pub(crate) struct Samples {
    pub inputs: Vec<Vec<(String, Array)>>,
    pub origin: String,
}

/// What the callers of `model` must feed.
pub(crate) fn input_specs(model: &Model) -> Result<Vec<InputSpec>, Error> {
    let graph = &model.graph;
    let infos = graph.required_inputs().map(|id| graph.value(id).info.clone().unwrap_or_default());
    Ok(infos.map(|info| InputSpec::of_input(&info)).collect::<Result<_, _>>()?)
}

/// The tokenizer in `path`, checked against the vocabulary of the model that reads `specs`.
pub(crate) fn tokenizer(model: &Model, specs: &[InputSpec], path: &Path) -> Result<Tokenizer, Error> {
    let tokenizer = Tokenizer::load(path)?;
    if let Some(vocabulary) = token_input(specs).and_then(|tokens| vocabulary(model, &tokens.name)) {
        tokenizer.check_vocabulary(vocabulary)?;
    }
    Ok(tokenizer)
}

/// The calibration samples that `options` ask for; `progress` hears how many runs of how many a model that writes its
/// own text has done. What it writes is kept in `state`.
pub(crate) fn samples(
    model: &Model,
    options: &Options,
    backend: &dyn Backend,
    state: Option<&State>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Samples, Error> {
    let specs = input_specs(model)?;
    if options.calibration.is_empty() {
        return written(model, &specs, options, backend, state, progress);
    }
    let tokenizer = options.tokenizer.as_deref().map(|path| tokenizer(model, &specs, path)).transpose()?;
    let (count, length) = (options.samples.unwrap_or(128), options.seq_len.unwrap_or(2048));
    let loaded =
        load_calibration(&options.calibration, tokenizer.as_ref(), &specs, count, length, options.bos)?;
    let inputs = loaded.iter().map(|sample| make_inputs(&specs, sample)).collect::<Result<Vec<_>, _>>()?;
    let files: Vec<_> = options.calibration.iter().map(|path| path.display().to_string()).collect();
    let origin = format!("{} samples of {}", inputs.len(), files.join(", "));
    Ok(Samples { inputs, origin })
}

/// Text that a causal language model samples from its own logits.
fn written(
    model: &Model,
    specs: &[InputSpec],
    options: &Options,
    backend: &dyn Backend,
    state: Option<&State>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Samples, Error> {
    let cannot = |why: &str| {
        Error::Model(format!(
            "the model cannot write its own calibration text: {why}; give --calibration, or use --method rtn"
        ))
    };
    let tokens = token_input(specs).ok_or_else(|| cannot("it has no token input"))?.name.clone();
    let vocabulary = vocabulary(model, &tokens).ok_or_else(|| cannot("its vocabulary is not known"))?;
    let logits = logits_output(model, vocabulary).ok_or_else(|| cannot("it has no logits"))?;
    let (count, length) = (options.samples.unwrap_or(16), options.seq_len.unwrap_or(512));
    let interpreter = Interpreter::new(model, backend, vec![logits])?;
    let mut prepared = interpreter.prepare()?;
    let inputs = |sequence: &[i64]| {
        let given = Sample::from([(tokens.clone(), Array::sequence(sequence.to_vec()))]);
        make_inputs(specs, &given)
    };
    let (mut runs, all) = (0, count * (PASSAGE.min(length) - 1));
    let mut run = |sequence: &[i64]| -> Result<Array, Error> {
        progress(runs, all);
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
    Ok(Samples { inputs, origin })
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
