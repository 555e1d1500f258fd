//! Calibration data: text, JSON lines and files of named arrays, as samples of batch 1.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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
    #[error("{}: text needs a tokenizer; give the model's tokenizer.json", path.display())]
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
        /// The file of text.
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
    #[error("{}: sample {sample}: {source}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// The sample, from 0 in its file.
        sample: usize,
        /// The reason.
        source: InputError,
    },
}

/// How token ids are made into samples.
struct Tokens<'a> {
    tokenizer: Option<&'a Tokenizer>,
    specs: &'a [InputSpec],
    samples: usize,
    seq_len: usize,
    bos: Option<i64>,
}

/// Reads up to `samples` samples from `files`, in order, and checks each against the model's inputs `specs`.
///
/// * `.txt` is one text: its tokens are cut into consecutive windows of `seq_len`, with `bos` as the first token of
///   each where given. A last, shorter window counts only when it is the only one.
/// * `.jsonl` has one sample a line: `{"text": "..."}`, cut to `seq_len` tokens (`bos` included), or the inputs by name
///   as nested arrays, where the batch dimension may be left out. Other keys are ignored.
/// * `.npz` and `.safetensors` hold arrays by input name whose first dimension counts the samples. Other arrays are
///   ignored.
///
/// # Errors
/// A [`DataError`] that names the file and, where there is one, the line, the array or the input.
pub fn load_calibration(
    files: &[PathBuf],
    tokenizer: Option<&Tokenizer>,
    specs: &[InputSpec],
    samples: usize,
    seq_len: usize,
    bos: Option<i64>,
) -> Result<Vec<Sample>, DataError> {
    let mut loaded = Vec::new();
    for path in files {
        let wanted = samples - loaded.len();
        if wanted == 0 {
            break;
        }
        let tokens = Tokens { tokenizer, specs, samples: wanted, seq_len, bos };
        let mut read = match path.extension().and_then(|extension| extension.to_str()) {
            Some("txt") => text::read(path, &tokens)?,
            Some("jsonl") => jsonl::read(path, &tokens)?,
            Some("npz") => split(path, specs, npz::read(path, specs)?, wanted)?,
            Some("safetensors") => split(path, specs, safetensors::read(path, specs)?, wanted)?,
            _ => return Err(DataError::Extension { path: path.clone() }),
        };
        if read.is_empty() {
            return Err(DataError::Empty { path: path.clone() });
        }
        read.truncate(wanted);
        for (sample, given) in read.iter().enumerate() {
            make_inputs(specs, given).map_err(|source| DataError::Input {
                path: path.clone(),
                sample,
                source,
            })?;
        }
        loaded.append(&mut read);
    }
    Ok(loaded)
}

impl Tokens<'_> {
    /// The ids of a text of the file `path`.
    fn encode(&self, path: &Path, text: &str) -> Result<Vec<i64>, DataError> {
        let tokenizer = self.tokenizer.ok_or_else(|| DataError::NoTokenizer { path: path.into() })?;
        let ids =
            tokenizer.encode(text).map_err(|source| DataError::Tokenize { path: path.into(), source })?;
        Ok(ids.into_iter().map(i64::from).collect())
    }

    /// Number of tokens of text in a full window.
    fn window(&self) -> usize {
        self.seq_len.saturating_sub(usize::from(self.bos.is_some())).max(1)
    }

    /// A sample of one window of text.
    fn sample(&self, path: &Path, window: &[i64]) -> Result<Sample, DataError> {
        let input = token_input(self.specs).ok_or_else(|| DataError::NoTokenInput { path: path.into() })?;
        let ids = self.bos.into_iter().chain(window.iter().copied()).collect();
        Ok(Sample::from([(input.name.clone(), Array::sequence(ids))]))
    }
}

/// Splits arrays along their first dimension, which must be the same for all, into samples of batch 1; the first `wanted`.
fn split(path: &Path, specs: &[InputSpec], arrays: Sample, wanted: usize) -> Result<Vec<Sample>, DataError> {
    let malformed = |reason| DataError::Malformed { path: path.into(), reason };
    let Some((first, array)) = arrays.iter().next() else {
        let inputs = specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(malformed(format!("none of its arrays is named like an input of the model: {inputs}")));
    };
    let count = |array: &Array| array.shape.first().copied();
    if let Some((name, other)) = arrays.iter().find(|(_, other)| count(other) != count(array)) {
        let (a, b) = (&array.shape, &other.shape);
        return Err(malformed(format!(
            "the first dimension must count the samples, but {first:?} has shape {a:?} and {name:?} {b:?}"
        )));
    }
    let mut samples = vec![Sample::new(); count(array).unwrap_or(0).min(wanted)];
    for (name, array) in &arrays {
        for (sample, row) in samples.iter_mut().zip(array.rows()) {
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
