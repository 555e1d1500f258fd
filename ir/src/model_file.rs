//! Models in files of either form.

use std::path::Path;

use crate::model::Model;
use crate::onnx::{self, ReadError};
use crate::text;

/// Reads the model in the file `path`: text where its name ends in `.zir`, else ONNX.
///
/// # Errors
/// As [`onnx::read`] and [`text::read`].
pub fn read(path: &Path) -> Result<Model, ReadError> {
    if text::is_text(path) { text::read(path) } else { onnx::read(path) }
}
