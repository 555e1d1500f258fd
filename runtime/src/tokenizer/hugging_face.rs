//! The crate `tokenizers`.

use std::path::Path;

use super::TokenizerError;
use crate::catch_panic::catch_panic;

/// A tokenizer without truncation and padding.
pub struct HuggingFace(tokenizers::Tokenizer);

impl HuggingFace {
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        let load_error =
            |error: tokenizers::Error| TokenizerError::Load { path: path.into(), reason: error.to_string() };
        let load = || {
            let mut inner = tokenizers::Tokenizer::from_file(path)?;
            inner.with_padding(None).with_truncation(None)?;
            Ok(inner)
        };
        let inner = catch_panic(load).map_err(|reason| load_error(reason.into()))?.map_err(load_error)?;
        Ok(Self(inner))
    }

    /// The ids of a text, without special tokens.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = catch_panic(|| self.0.encode_fast(text, false))?;
        Ok(encoding.map_err(|error| error.to_string())?.get_ids().to_vec())
    }

    pub fn token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }

    /// Number of tokens, added ones included.
    pub fn size(&self) -> usize {
        self.0.get_vocab_size(true)
    }
}
