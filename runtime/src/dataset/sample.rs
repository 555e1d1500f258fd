//! What calibration data is read for, and what a file gives.

use std::sync::Arc;

use crate::inputs::{InputSpec, Sample};
use crate::tokenizer::{Tokenizer, TokenizerError};

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
