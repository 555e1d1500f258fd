//! In place of the crate `tokenizers`, where it is left out.

use std::path::Path;

use super::TokenizerError;

/// A tokenizer that nobody has.
pub enum HuggingFace {}

impl HuggingFace {
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        Err(TokenizerError::NotBuilt { path: path.into() })
    }

    pub fn ids(&self, _text: &str) -> Result<Vec<u32>, String> {
        match *self {}
    }

    pub fn token(&self, _id: u32) -> Option<String> {
        match *self {}
    }

    pub fn size(&self) -> usize {
        match *self {}
    }
}
