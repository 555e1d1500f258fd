//! What a compilation tells.

use std::path::Path;

use zqc_ir::Model;
use zqc_passes::{Observer, Silent};

/// Hears how a compilation goes on, besides what the passes tell.
pub trait Events: Observer {
    /// A pass has run; `model` is what it left.
    fn pass_finished(&mut self, _pass: &str, _model: &Model) {}

    /// A step that takes long begins.
    fn step(&mut self, _what: &str) {}

    /// `done` of the `count` parts of the step are done.
    fn step_advanced(&mut self, _done: usize, _count: usize) {}

    /// Calibration text is read with this tokenizer, which no option names.
    fn tokenizer_found(&mut self, _path: &Path) {}
}

impl Events for Silent {}
