//! `.txt`: one text, cut into windows of tokens.

use std::path::Path;

use super::{DataError, Sample, Tokens, read_file};

/// Reads the first windows of a text.
pub fn read(path: &Path, tokens: &Tokens, wanted: usize) -> Result<Vec<Sample>, DataError> {
    let text = String::from_utf8(read_file(path)?).map_err(|error| DataError::Malformed {
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
