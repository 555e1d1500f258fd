//! Text to token ids.

#[cfg_attr(not(feature = "tokenizers"), path = "tokenizer/not_built.rs")]
mod hugging_face;

use std::path::{Path, PathBuf};

use hugging_face::HuggingFace;

/// A tokenizer of the Hugging Face `tokenizer.json` format.
pub struct Tokenizer {
    path: PathBuf,
    inner: HuggingFace,
}

/// Why text could not be tokenized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is unreadable or no tokenizer.
    #[error("{}: not a usable tokenizer.json: {reason}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Tokenizers were left out of this build.
    #[error(
        "{}: this build reads no tokenizers: build with the feature `tokenizers`, or give token ids in .npz or .safetensors \
         files",
        path.display()
    )]
    NotBuilt {
        /// The file.
        path: PathBuf,
    },
    /// The tokenizer's model fails on the text.
    #[error("{}: cannot tokenize the text: {reason}", path.display())]
    Encode {
        /// The tokenizer's file.
        path: PathBuf,
        /// What the tokenizer says.
        reason: String,
    },
    /// The text has a token that the model does not have.
    #[error(
        "{}: gives the text's token {token:?} the id {id}, but the model knows only {vocabulary} tokens; leave that token \
         out of the text, unless this is the tokenizer of another model",
        path.display()
    )]
    UnknownToken {
        /// The tokenizer's file.
        path: PathBuf,
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// Number of tokens that the model knows.
        vocabulary: usize,
    },
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Truncation and padding that it asks for are switched off.
    ///
    /// # Errors
    /// [`TokenizerError::Load`], or [`TokenizerError::NotBuilt`] without the feature `tokenizers`.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        Ok(Self { path: path.into(), inner: HuggingFace::load(path)? })
    }

    /// The ids of a text for a model of `vocabulary` tokens (rows of its embedding), without the special tokens that a model's
    /// input template adds.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`], and [`TokenizerError::UnknownToken`] when the model does not have one of them. A tokenizer may
    /// know more tokens than the model, as that of a model of text and images does.
    pub fn encode(&self, text: &str, vocabulary: Option<usize>) -> Result<Vec<u32>, TokenizerError> {
        let ids = self.inner.ids(text);
        let ids = ids.map_err(|reason| TokenizerError::Encode { path: self.path.clone(), reason })?;
        if let Some(vocabulary) = vocabulary
            && let Some(&id) = ids.iter().find(|&&id| id as usize >= vocabulary)
        {
            let token = self.inner.token(id).unwrap_or_default();
            return Err(TokenizerError::UnknownToken { path: self.path.clone(), token, id, vocabulary });
        }
        Ok(ids)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.size()
    }
}
