//! Text in files; large constants lie in a data file beside.

use std::path::Path;

use super::lex::ParseError;
use super::message::messages;
use super::parse::Parser;
use super::print::{Printer, Style};
use crate::model::Model;
use crate::onnx::{ModelError, ReadError, Staged, WriteError, from_text, has_large, map_file, stage_message};

/// Reads a model as text; its file and the data file beside it are mapped, and must not change while the model lives.
///
/// # Errors
/// When a file is missing or truncated, the text breaks the grammar or leaves constants out, or the graph is not valid.
pub fn read(path: &Path) -> Result<Model, ReadError> {
    let model = || {
        let bytes = map_file(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|error| not_utf8(&bytes[..error.valid_up_to()]))?;
        let (proto, own) = Parser::new(text).model()?;
        let mut model = from_text(proto, own, Some(path))?;
        model.source_bytes += bytes.len() as u64;
        Ok(model)
    };
    model().map_err(|source: ModelError| ReadError { path: path.to_path_buf(), source })
}

fn not_utf8(before: &[u8]) -> ParseError {
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
    ParseError { line, column, message: "this is not UTF-8, and no text".to_string() }
}

/// Writes all of the model as text to a temporary folder beside `path`, and large constants to a data file.
///
/// # Errors
/// When the graph has a cycle, or the files cannot be written.
pub fn stage(model: &Model, path: &Path) -> Result<Staged, WriteError> {
    let (proto, own) = messages(model, &model.graph.order()?);
    let inline = !has_large(&proto);
    stage_message(proto, path, inline, |proto| {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = Printer::new(&mut text, Style::Exact, &own).model(proto);
        Ok(text.into_bytes())
    })
}
