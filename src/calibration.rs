//! The samples that a model is calibrated on: from files, or written by the model itself.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zqc_ir::Model;
use zqc_ir::tensor::DataType;
use zqc_passes::{PassError, context_length, vocabulary};
use zqc_runtime::{
    Array, Backend, CalibrationSample, Dimension, InputSpec, Interpreter, RunError, Sample, SampleOptions,
    SynthesizeError, Tokenizer, load_calibration, make_inputs, pack, synthesize, token_input,
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
pub(crate) const LENGTH: usize = 2048;
/// Tokens of a sample of text that the model writes itself, likewise.
const OWN_LENGTH: usize = 512;

/// Inputs of the model by name, one entry a sample, and where they come from, in words.
pub(crate) struct Samples {
    pub inputs: Vec<Vec<(String, Array)>>,
    /// More of the same, which weights are tuned on but not solved.
    pub more: Vec<Vec<(String, Array)>>,
    /// More of the same, which nothing is solved or tuned on.
    pub held_out: Vec<Vec<(String, Array)>>,
    /// Where each sample is in the files; of text that the model wrote itself, nowhere.
    pub places: Vec<String>,
    pub origin: String,
    /// What may help where the model does not run on them, or nothing.
    pub hint: String,
}

impl Samples {
    /// No samples: weights are rounded to nearest.
    pub fn none() -> Self {
        let origin = "none: weights are rounded to nearest".to_string();
        let [inputs, more, held_out] = [(); 3].map(|()| Vec::new());
        Self { inputs, more, held_out, places: Vec::new(), origin, hint: String::new() }
    }

    /// An error of calibration with the place of the sample that it comes of.
    pub fn named(&self, error: Error) -> Error {
        match error {
            Error::Pass(PassError::Sample { sample, source }) if sample < self.places.len() => {
                let hint =
                    if matches!(*source, RunError::Backend(_)) { self.hint.clone() } else { String::new() };
                Error::Sample { place: self.places[sample].clone(), source, hint }
            }
            other => other,
        }
    }
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
    let specs = InputSpec::of_graph(&model.graph)?;
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
    let vocabulary = tokens.and_then(|tokens| vocabulary(&model.graph, &tokens.name));
    let count = options.samples.unwrap_or(128);
    let seq_len = options.seq_len.unwrap_or_else(|| length(model, tokens, LENGTH));
    let more = options.tune().map_or(0, |tune| tune.samples(seq_len));
    let held_out = if vocabulary.is_some() { held_out(count, seq_len) } else { 0 };
    let loaded = load_calibration(
        &options.calibration,
        &SampleOptions {
            specs: &specs,
            vocabulary,
            tokenizer: &tokenizer,
            samples: count.saturating_add(held_out).saturating_add(more),
            seq_len,
            bos: options.bos,
        },
    );
    if let Some(path) = found.get() {
        events.tokenizer_found(path);
    }
    let mut loaded = loaded?;
    let mut rest = loaded.split_off(count.min(loaded.len())).into_iter();
    let inputs = |loaded: CalibrationSample| make_inputs(&specs, &loaded.sample);
    let held_out = rest.by_ref().take(held_out).map(inputs).collect::<Result<_, _>>()?;
    let more = rest.map(inputs).collect::<Result<_, _>>()?;
    let of_text = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "txt");
    let unasked = options.seq_len.is_none() && options.calibration.iter().any(of_text);
    let hint = if unasked { too_long(length(model, tokens, LENGTH), "--seq-len") } else { String::new() };
    let files: Vec<_> = options.calibration.iter().map(|path| path.display().to_string()).collect();
    let origin = format!("{} samples of {}", loaded.len(), files.join(", "));
    let (samples, places): (Vec<_>, Vec<_>) =
        loaded.into_iter().map(|loaded| (loaded.sample, loaded.place)).unzip();
    let (mut inputs, mut begins) = (Vec::new(), Vec::new());
    for run in pack(&specs, &samples) {
        inputs.push(make_inputs(&specs, &run.sample)?);
        begins.push(places[run.first].clone());
    }
    Ok(Samples { inputs, more, held_out, places: begins, origin, hint })
}

/// The most tokens that are held out.
const MOST_HELD_OUT: usize = 16 << 10;

/// How many samples of `length` tokens are held out where weights are solved on so many: a tenth more, so that weights are the same
/// with and without.
fn held_out(samples: usize, length: usize) -> usize {
    samples.div_ceil(10).min((MOST_HELD_OUT / length.max(1)).max(1))
}

/// The calibration samples that a caller gives, completed with what follows from the token ids.
pub(crate) fn given(model: &Model, samples: Vec<Sample>) -> Result<Samples, Error> {
    let specs = InputSpec::of_graph(&model.graph)?;
    let runs = pack(&specs, &samples);
    let places = runs.iter().map(|run| format!("sample {}", run.first)).collect();
    let inputs = runs.iter().map(|run| make_inputs(&specs, &run.sample)).collect::<Result<_, _>>()?;
    let origin = format!("{} samples in memory", samples.len());
    Ok(Samples { inputs, places, origin, ..Samples::none() })
}

/// What may help a model that does not run on samples of `length` tokens, which nobody asked for.
pub(crate) fn too_long(length: usize, option: &str) -> String {
    format!("; it is given up to {length} tokens in a row: if it takes fewer, say how many with {option}")
}

/// `wished` tokens, or as many as the model's input `tokens` takes.
pub(crate) fn length(model: &Model, tokens: Option<&InputSpec>, wished: usize) -> usize {
    let Some(tokens) = tokens else { return wished };
    match tokens.shape.as_deref() {
        Some([_, Dimension::Fixed(length)]) => *length,
        _ => context_length(model, &tokens.name).map_or(wished, |most| wished.min(most)),
    }
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
    let vocabulary =
        vocabulary(&model.graph, &tokens).ok_or_else(|| cannot("its vocabulary is not known"))?;
    let logits = logits_output(model, vocabulary).ok_or_else(|| cannot("it has no logits"))?;
    if let Some(bos) = options.bos.filter(|&bos| bos >= vocabulary as i64) {
        return Err(Error::Model(format!("--bos {bos}: the model knows only {vocabulary} tokens")));
    }
    let (count, length) = (
        options.samples.unwrap_or(16),
        options.seq_len.unwrap_or_else(|| length(model, token_input(specs), OWN_LENGTH)),
    );
    let all = count + held_out(count, length);
    let interpreter = Interpreter::new(model, backend, vec![logits])?;
    let prepared = interpreter.prepare()?;
    let sample = |sequence: &[i64]| Sample::from([(tokens.clone(), Array::sequence(sequence.to_vec()))]);
    let (mut runs, all_runs) = (0, all * (PASSAGE.min(length) - 1));
    let mut run = |sequence: &[i64]| -> Result<Array, Error> {
        events.step_advanced(runs, all_runs);
        if events.stopped() {
            return Err(PassError::Stopped.into());
        }
        runs += 1;
        let inputs = make_inputs(specs, &sample(sequence))?;
        let live = interpreter.feed(inputs.iter().map(|(name, array)| (name.as_str(), array.clone())));
        let mut results = prepared.run(live)?;
        let logits = results.pop().ok_or_else(|| cannot("it has no logits"))?;
        // A model of fixed batch has the sequence in all of it.
        let first = if logits.shape.first() > Some(&1) { logits.rows().next() } else { None };
        Ok(first.unwrap_or(logits))
    };
    let sequences = match state.and_then(State::text) {
        Some(sequences) => sequences,
        None => {
            let sequences = synthesize(vocabulary, all, length, options.bos, SEED, PASSAGE, &mut run)
                .map_err(|error| {
                    if let SynthesizeError::Model(stopped @ Error::Pass(PassError::Stopped)) = error {
                        return stopped;
                    }
                    let fails = matches!(error, SynthesizeError::Model(Error::Run(RunError::Backend(_))));
                    let unasked = fails && options.seq_len.is_none();
                    let hint = if unasked { too_long(length, "--seq-len") } else { String::new() };
                    Error::Model(format!("{error}{hint}"))
                })?;
            state.into_iter().for_each(|state| state.store_text(&sequences));
            sequences
        }
    };
    let mut samples: Vec<Sample> = sequences.iter().map(|sequence| sample(sequence)).collect();
    let held_out = samples.split_off(count.min(samples.len()));
    let held_out = held_out.iter().map(|sample| make_inputs(specs, sample)).collect::<Result<_, _>>()?;
    let runs = pack(specs, &samples).into_iter();
    let inputs = runs.map(|run| make_inputs(specs, &run.sample)).collect::<Result<Vec<_>, _>>()?;
    let origin = format!("{count} samples of {length} tokens that the model wrote itself");
    Ok(Samples { inputs, held_out, origin, ..Samples::none() })
}

/// The output that holds the logits: the one so named, else the first of floats whose declared width is the
/// vocabulary.
pub(crate) fn logits_output(model: &Model, vocabulary: usize) -> Option<zqc_ir::ValueId> {
    let graph = &model.graph;
    if let Some(id) = graph.find("logits").filter(|&id| graph.is_output(id)) {
        return Some(id);
    }
    graph.outputs().iter().copied().find(|&id| {
        InputSpec::of_value(graph, id).is_ok_and(|spec| {
            let float = matches!(spec.data_type, DataType::Float | DataType::Float16 | DataType::Bfloat16);
            let width = spec.shape.as_ref().and_then(|dims| dims.last());
            float && matches!(width, Some(Dimension::Fixed(width)) if *width == vocabulary)
        })
    })
}
