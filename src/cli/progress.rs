//! Progress bars on standard error.

use indicatif::{ProgressBar, ProgressStyle};
use zqc::ir::Model;
use zqc::passes::{LayerRecord, Observer};
use zqc::{Error, Events};

use super::print;

/// A bar that counts `what`, with the time left.
pub(super) fn bar(what: &'static str) -> ProgressBar {
    let template = "{bar:32} {pos}/{len} {prefix}, {elapsed} gone, {eta} left  {msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style).with_prefix(what)
}

/// Shows how a compilation goes on.
pub(super) struct Progress {
    bar: ProgressBar,
    print_after: Vec<String>,
    printed: Result<(), Error>,
}

impl Progress {
    /// `print_after` names the passes whose result is printed.
    pub(super) fn new(print_after: Vec<String>) -> Self {
        Self { bar: bar("stages"), print_after, printed: Ok(()) }
    }

    /// Takes the bar away.
    ///
    /// # Errors
    /// When a graph could not be printed.
    pub(super) fn finish(self) -> Result<(), Error> {
        self.bar.finish_and_clear();
        self.printed
    }
}

impl Observer for Progress {
    fn stage_started(&mut self, index: usize, count: usize, layers: usize) {
        if index == 0 {
            self.bar.reset();
            self.bar.set_prefix("stages");
        }
        self.bar.set_length(count as u64);
        self.bar.set_position(index as u64);
        self.bar.set_message(format!("{layers} layers"));
    }

    fn layer_solved(&mut self, record: LayerRecord) {
        self.bar.set_message(record.layer);
    }
}

impl Events for Progress {
    fn pass_finished(&mut self, pass: &str, model: &Model) {
        if self.printed.is_ok() && self.print_after.iter().any(|name| name == pass) {
            self.printed = self.bar.suspend(|| print(&model.to_string()));
        }
    }

    fn step(&mut self, what: &str) {
        self.bar.set_message(what.to_string());
        self.bar.tick();
    }

    fn step_advanced(&mut self, done: usize, count: usize) {
        self.bar.set_prefix("runs");
        self.bar.set_length(count as u64);
        self.bar.set_position(done as u64);
    }
}
