//! The file that `--report` names.

use std::path::{Path, PathBuf};

use crate::{Error, Report};

use super::json;

/// Where the report goes; the file ending says in which form.
#[derive(Clone)]
pub(super) struct ReportFile {
    path: PathBuf,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    Html,
    Json,
}

impl ReportFile {
    /// # Errors
    /// When the ending is neither that of HTML nor that of JSON.
    pub(super) fn new(path: PathBuf) -> Result<Self, &'static str> {
        let form = match path.extension().and_then(|ending| ending.to_str()) {
            Some("html") => Form::Html,
            Some("json") => Form::Json,
            _ => return Err("the report is written as .html or .json"),
        };
        Ok(Self { path, form })
    }

    /// Whether it goes to the file `path`.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.path == path
    }

    /// Whether it goes to a place below the folder `path`.
    pub(super) fn is_below(&self, path: &Path) -> bool {
        self.path.starts_with(path) && !self.is_at(path)
    }

    /// Checks that the file could be written.
    pub(super) fn check_writable(&self) -> Result<(), Error> {
        Ok(zqc_ir::onnx::check_writable(&self.path)?)
    }

    /// Writes the file at once, or not at all.
    pub(super) fn write(&self, report: &Report) -> Result<(), Error> {
        let text = match self.form {
            Form::Html => report.to_html(),
            Form::Json => json(report)?,
        };
        Ok(zqc_ir::onnx::write_file(&self.path, text.as_bytes())?)
    }
}
