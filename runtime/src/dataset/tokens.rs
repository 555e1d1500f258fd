//! Text to samples of token ids.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use super::error::DataError;
use super::sample::SampleOptions;
use crate::array::Array;
use crate::inputs::{InputSpec, Sample, token_input};
use crate::tokenizer::Tokenizer;

/// Makes samples of text, with a tokenizer that is loaded for the first.
pub(super) struct Tokens<'a> {
    pub options: &'a SampleOptions<'a>,
    tokenizer: OnceCell<Arc<Tokenizer>>,
}

impl<'a> Tokens<'a> {
    pub fn new(options: &'a SampleOptions<'a>) -> Self {
        Self { options, tokenizer: OnceCell::new() }
    }

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
    pub fn encode(&self, path: &Path, text: &str) -> Result<Vec<i64>, DataError> {
        let ids = self.tokenizer(path)?.encode(text, self.options.vocabulary);
        let ids = ids.map_err(|source| DataError::Tokenize { path: path.into(), source })?;
        Ok(ids.into_iter().map(i64::from).collect())
    }

    /// Number of tokens of text in a full window.
    pub fn window(&self) -> usize {
        self.options.seq_len.saturating_sub(usize::from(self.options.bos.is_some())).max(1)
    }

    /// The input that takes token ids.
    fn input(&self, path: &Path) -> Result<&InputSpec, DataError> {
        token_input(self.options.specs).ok_or_else(|| DataError::NoTokenInput { path: path.into() })
    }

    /// A sample of one window of text.
    pub fn sample(&self, path: &Path, window: &[i64]) -> Result<Sample, DataError> {
        let ids = self.options.bos.into_iter().chain(window.iter().copied()).collect();
        Ok(Sample::from([(self.input(path)?.name.clone(), Array::sequence(ids))]))
    }
}
