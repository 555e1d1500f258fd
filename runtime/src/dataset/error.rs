//! Why a data set could not be read.

use std::io;
use std::path::{Path, PathBuf};

use crate::array::ArrayError;
use crate::inputs::InputError;
use crate::tokenizer::TokenizerError;

/// Why a data set could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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

impl DataError {
    /// The error of a file that cannot be read.
    pub(super) fn read(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Read { path: path.into(), source }
    }
}
