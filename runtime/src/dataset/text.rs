//! `.txt`: one text, cut into windows of tokens.

use std::fs;
use std::path::Path;

use super::error::DataError;
use super::tokens::Tokens;
use crate::inputs::Sample;

/// Reads the first windows of a text.
pub fn read(path: &Path, tokens: &Tokens, wanted: usize) -> Result<Vec<Sample>, DataError> {
    let bytes = fs::read(path).map_err(DataError::read(path))?;
    let text = String::from_utf8(bytes).map_err(|error| DataError::Malformed {
        path: path.into(),
        reason: format!("not UTF-8 text: {error}"),
    })?;
    let ids = tokens.encode(path, &text)?;
    let window = tokens.window();
    if ids.len() < window && !ids.is_empty() {
        return Ok(vec![tokens.sample(path, &ids)?]);
    }
    ids.chunks_exact(window).take(wanted).map(|ids| tokens.sample(path, ids)).collect()
}
