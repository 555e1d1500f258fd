//! Calibration data: text, JSON lines and files of named arrays, as samples of batch 1. `docs/calibration.md` has an example of
//! each file.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use crate::array::{Array, ArrayError};
use crate::inputs::{InputError, InputSpec, make_inputs, token_input};
use crate::tokenizer::{Tokenizer, TokenizerError};

mod jsonl;
mod npz;
mod safetensors;
mod text;

/// What a data set gives of one run of a model: arrays by input name, batch 1. [`make_inputs`] completes it.
pub type Sample = BTreeMap<String, Array>;

/// Why a data set could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file's name does not say what it is.
    #[error("{}: not a calibration file; they end in .txt, .jsonl, .npz or .safetensors", path.display())]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// The content is not what the file's name says.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the array where there are several.
        reason: String,
    },
    /// A line of a `.jsonl` file is wrong.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The file holds no sample.
    #[error("{}: holds no sample", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Text needs a tokenizer.
    #[error(
        "{}: text needs a tokenizer, and no tokenizer.json lies beside the model; give it with --tokenizer",
        path.display()
    )]
    NoTokenizer {
        /// The file.
        path: PathBuf,
    },
    /// The model does not say where token ids go.
    #[error(
        "{}: the model has no input_ids and no single integer input of rank 2 for token ids; give its inputs by name \
         in an .npz or .safetensors file",
        path.display()
    )]
    NoTokenInput {
        /// The file.
        path: PathBuf,
    },
    /// The text could not be tokenized.
    #[error("{}: {source}", path.display())]
    Tokenize {
        /// The file that holds the text.
        path: PathBuf,
        /// The reason.
        source: TokenizerError,
    },
    /// An array of the file is not usable.
    #[error("{}: array {name:?}: {source}", path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// Name of the array.
        name: String,
        /// The reason.
        source: ArrayError,
    },
    /// A sample does not fit the model.
    #[error("{place}: {source}")]
    Input {
        /// File and sample.
        place: String,
        /// The reason.
        source: InputError,
    },
    /// A sample has a token id that no row of the model's embedding table stands for.
    #[error("{place}: input {input:?} has the token id {id}, but the model knows only {vocabulary} tokens")]
    UnknownToken {
        /// File and sample.
        place: String,
        /// Name of the input.
        input: String,
        /// The token id.
        id: i64,
        /// Number of tokens that the model knows.
        vocabulary: usize,
    },
    /// A sample holds NaN.
    #[error("{place}: input {input:?} holds NaN")]
    NotANumber {
        /// File and sample.
        place: String,
        /// Name of the input.
        input: String,
    },
}

/// Gives the tokenizer, if there is one; asked when the first text is read.
pub type TokenizerSource<'a> = &'a dyn Fn() -> Result<Option<Arc<Tokenizer>>, TokenizerError>;

/// What calibration data is read for, and how much of it.
pub struct SampleOptions<'a> {
    /// The model's inputs.
    pub specs: &'a [InputSpec],
    /// Number of tokens that the model knows, where that is known.
    pub vocabulary: Option<usize>,
    /// The tokenizer for text.
    pub tokenizer: TokenizerSource<'a>,
    /// Samples at most.
    pub samples: usize,
    /// Tokens of a sample of text at most, `bos` included.
    pub seq_len: usize,
    /// Token id that begins every sample of text.
    pub bos: Option<i64>,
}

/// One sample with its place in the data.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationSample {
    /// Arrays by input name.
    pub sample: Sample,
    /// File and line, or file and number from 0: `data.jsonl:3`, `data.npz: sample 0`.
    pub place: String,
}

/// How text is made into samples.
struct Tokens<'a> {
    options: &'a SampleOptions<'a>,
    tokenizer: OnceCell<Arc<Tokenizer>>,
}

/// Reads up to `options.samples` samples from `files`, in order, and checks each against the model's inputs.
///
/// * `.txt` is one text: its tokens are cut into consecutive windows of `seq_len`, with `bos` as the first token of
///   each where given. A last, shorter window counts only when it is the only one.
/// * `.jsonl` has one sample a line: inputs by name as nested arrays, where the batch dimension may be left out, and
///   `"text": "..."`, cut to `seq_len` tokens (`bos` included), in place of the token ids. Other keys are ignored.
/// * `.npz` and `.safetensors` hold arrays by input name whose first dimension counts the samples. It is the batch dimension
///   of an input of the same rank; in front of one that has a dimension less, such as a scalar, it is left out of the sample. A
///   scalar without that dimension is the same in every sample. Other arrays are ignored.
///
/// # Errors
/// A [`DataError`] that names the file and, where there is one, the line or the number of the sample, the array or the input.
pub fn load_calibration(
    files: &[PathBuf],
    options: &SampleOptions,
) -> Result<Vec<CalibrationSample>, DataError> {
    let (specs, tokens) = (options.specs, Tokens { options, tokenizer: OnceCell::new() });
    let mut loaded = Vec::new();
    for path in files {
        let wanted = options.samples - loaded.len();
        if wanted == 0 {
            break;
        }
        let mut read = match path.extension().and_then(|extension| extension.to_str()) {
            Some("txt") => numbered(path, text::read(path, &tokens, wanted)?),
            Some("jsonl") => jsonl::read(path, &tokens, wanted)?,
            Some("npz") => numbered(path, split(path, specs, npz::read(path, specs)?, wanted)?),
            Some("safetensors") => {
                numbered(path, split(path, specs, safetensors::read(path, specs)?, wanted)?)
            }
            _ => return Err(DataError::Extension { path: path.clone() }),
        };
        if read.is_empty() {
            return Err(DataError::Empty { path: path.clone() });
        }
        read.truncate(wanted);
        read.iter().try_for_each(|sample| check(sample, options))?;
        loaded.append(&mut read);
    }
    Ok(loaded)
}

/// Checks that the model can be run on a sample.
fn check(
    CalibrationSample { sample, place }: &CalibrationSample,
    options: &SampleOptions,
) -> Result<(), DataError> {
    make_inputs(options.specs, sample).map_err(|source| DataError::Input { place: place.clone(), source })?;
    let nan = |array: &Array| array.as_f32().is_some_and(|values| values.iter().any(|value| value.is_nan()));
    if let Some((input, _)) = sample.iter().find(|(_, array)| nan(array)) {
        return Err(DataError::NotANumber { place: place.clone(), input: input.clone() });
    }
    let Some(vocabulary) = options.vocabulary else { return Ok(()) };
    let tokens = token_input(options.specs).and_then(|input| sample.get_key_value(&input.name));
    // ONNX counts negative indices from the end.
    let unknown = |&id: &i64| id >= vocabulary as i64 || id < -(vocabulary as i64);
    match tokens.and_then(|(input, ids)| Some((input, ids.to_i64()?.into_iter().find(unknown)?))) {
        Some((input, id)) => {
            Err(DataError::UnknownToken { place: place.clone(), input: input.clone(), id, vocabulary })
        }
        None => Ok(()),
    }
}

/// The samples of a file with their numbers.
fn numbered(path: &Path, samples: Vec<Sample>) -> Vec<CalibrationSample> {
    let place = |index| format!("{}: sample {index}", path.display());
    let samples = samples.into_iter().enumerate();
    samples.map(|(index, sample)| CalibrationSample { sample, place: place(index) }).collect()
}

impl Tokens<'_> {
    fn tokenizer(&self, path: &Path) -> Result<&Tokenizer, DataError> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let failed = |source| DataError::Tokenize { path: path.into(), source };
        let tokenizer = (self.options.tokenizer)().map_err(failed)?;
        let tokenizer = tokenizer.ok_or_else(|| DataError::NoTokenizer { path: path.into() })?;
        Ok(self.tokenizer.get_or_init(|| tokenizer))
    }

    /// The ids of a text of the file `path`.
    fn encode(&self, path: &Path, text: &str) -> Result<Vec<i64>, DataError> {
        let ids = self.tokenizer(path)?.encode(text, self.options.vocabulary);
        let ids = ids.map_err(|source| DataError::Tokenize { path: path.into(), source })?;
        Ok(ids.into_iter().map(i64::from).collect())
    }

    /// Number of tokens of text in a full window.
    fn window(&self) -> usize {
        self.options.seq_len.saturating_sub(usize::from(self.options.bos.is_some())).max(1)
    }

    /// The input that takes token ids.
    fn input(&self, path: &Path) -> Result<&InputSpec, DataError> {
        token_input(self.options.specs).ok_or_else(|| DataError::NoTokenInput { path: path.into() })
    }

    /// A sample of one window of text.
    fn sample(&self, path: &Path, window: &[i64]) -> Result<Sample, DataError> {
        let ids = self.options.bos.into_iter().chain(window.iter().copied()).collect();
        Ok(Sample::from([(self.input(path)?.name.clone(), Array::sequence(ids))]))
    }
}

/// Splits arrays along their first dimension, which must be the same for all, into samples; the first `wanted`.
fn split(path: &Path, specs: &[InputSpec], arrays: Sample, wanted: usize) -> Result<Vec<Sample>, DataError> {
    let malformed = |reason| DataError::Malformed { path: path.into(), reason };
    let Some((first, array)) = arrays.iter().find(|(_, array)| !array.shape.is_empty()) else {
        let inputs = specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(malformed(if arrays.is_empty() {
            format!("none of its arrays is named like an input of the model: {inputs}")
        } else {
            "none of its arrays has a dimension that counts the samples".to_string()
        }));
    };
    let count = array.shape[0];
    let other_count = |array: &Array| array.shape.first().is_some_and(|&other| other != count);
    if let Some((name, other)) = arrays.iter().find(|(_, array)| other_count(array)) {
        let (a, b) = (&array.shape, &other.shape);
        return Err(malformed(format!(
            "the first dimension must count the samples, but {first:?} has shape {a:?} and {name:?} {b:?}"
        )));
    }
    let mut samples = vec![Sample::new(); count.min(wanted)];
    for (name, array) in &arrays {
        let rank = specs.iter().find(|spec| spec.name == *name).and_then(InputSpec::rank);
        // The samples of an input without a batch of 1 lie one behind the other in a dimension that it has not.
        let unbatched = rank.is_some_and(|rank| rank + 1 == array.shape.len());
        if array.shape.is_empty() {
            samples.iter_mut().for_each(|sample| drop(sample.insert(name.clone(), array.clone())));
            continue;
        }
        for (sample, mut row) in samples.iter_mut().zip(array.rows()) {
            if unbatched {
                row.shape.remove(0);
            }
            sample.insert(name.clone(), row);
        }
    }
    Ok(samples)
}

fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    fs::read(path).map_err(|source| DataError::Read { path: path.into(), source })
}

fn is_input(specs: &[InputSpec], name: &str) -> bool {
    specs.iter().any(|spec| spec.name == name)
}
