//! Progress on standard error: a bar on a terminal, elsewhere a line from time to time.

use std::io::IsTerminal;
use std::ops::Deref;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::ir::Model;
use crate::passes::{LayerRecord, Observer};
use crate::{Error, Events};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::print;

/// Between two lines lies as much time at least.
const INTERVAL: Duration = Duration::from_secs(30);

/// A bar that counts something, with the time left.
pub(super) struct Bar {
    bar: ProgressBar,
    /// The lines end when it is dropped.
    _lines: Option<Sender<()>>,
}

impl Bar {
    /// A bar that counts `what`.
    pub(super) fn new(what: &'static str) -> Self {
        let template = "{bar:32} {pos}/{len} {prefix}, {elapsed} gone, {eta} left  {msg}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style).with_prefix(what);
        let seen = std::io::stderr().is_terminal();
        let lines = (!seen).then(|| print_lines(bar.clone(), INTERVAL, |line| say!("{line}")));
        Self { bar, _lines: lines }
    }

    /// A bar that nobody sees.
    fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), _lines: None }
    }
}

impl Deref for Bar {
    type Target = ProgressBar;

    fn deref(&self) -> &ProgressBar {
        &self.bar
    }
}

/// Gives `line` what the bar shows at most once in each `interval`, and only when it has moved, until the result is dropped.
fn print_lines(bar: ProgressBar, interval: Duration, line: impl Fn(String) + Send + 'static) -> Sender<()> {
    let (end, ended) = channel();
    let lines = move || {
        let mut last = None;
        while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            let now = Some((bar.prefix(), bar.position(), bar.message()));
            if now != last {
                line(in_words(&bar));
                last = now;
            }
        }
    };
    // Where no thread can be started, there are no lines.
    let _ = std::thread::Builder::new().name("progress".to_string()).spawn(lines);
    end
}

/// `12/210 stages, 3 minutes gone, 49 minutes left: model.layers.1.mlp.down_proj`.
fn in_words(bar: &ProgressBar) -> String {
    let (done, count, gone) = (bar.position(), bar.length().unwrap_or(0), bar.elapsed());
    let mut line = String::new();
    if count > 0 {
        line = format!("{done}/{count} {}, {} gone", bar.prefix(), HumanDuration(gone));
    }
    if let Some(left) = count.checked_sub(done).filter(|_| done > 0) {
        let left = gone.mul_f64(left as f64 / done as f64);
        line += &format!(", {} left", HumanDuration(left));
    }
    match (line.is_empty(), bar.message()) {
        (true, message) => message,
        (false, message) if message.is_empty() => line,
        (false, message) => format!("{line}: {message}"),
    }
}

/// Shows how a compilation goes on.
pub(super) struct Progress {
    bar: Bar,
    print_after: Vec<String>,
    printed: Result<(), Error>,
}

impl Progress {
    /// `print_after` names the passes whose result is printed.
    /// A log takes the place of the bar.
    pub(super) fn new(print_after: Vec<String>, is_logged: bool) -> Self {
        let bar = if is_logged { Bar::hidden() } else { Bar::new("stages") };
        Self { bar, print_after, printed: Ok(()) }
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

    fn tuned(&mut self, step: usize, steps: usize, kl: f64) {
        self.bar.set_prefix("steps");
        self.bar.set_length(steps as u64);
        self.bar.set_position(step as u64);
        self.bar.set_message(format!("KL divergence {kl:.4}"));
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

    fn tokenizer_found(&mut self, path: &std::path::Path) {
        self.bar.suspend(|| say!("tokenizer: {}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    fn lines(bar: &ProgressBar) -> (Sender<()>, Receiver<String>) {
        let (sender, receiver) = channel();
        let end = print_lines(bar.clone(), SOON, move |line| drop(sender.send(line)));
        (end, receiver)
    }

    #[test]
    fn a_line_says_what_is_done_and_what_is_left() {
        let bar = ProgressBar::hidden().with_prefix("stages").with_elapsed(Duration::from_secs(120));
        bar.set_message("reading calibration data");
        assert_eq!(in_words(&bar), "reading calibration data");
        bar.set_length(20);
        bar.set_position(5);
        bar.set_message("fc1");
        assert_eq!(in_words(&bar), "5/20 stages, 2 minutes gone, 6 minutes left: fc1");
        bar.set_message("");
        bar.set_position(0);
        assert_eq!(in_words(&bar), "0/20 stages, 2 minutes gone");
    }

    #[test]
    fn lines_come_only_when_the_bar_has_moved_and_end_with_it() {
        let bar = ProgressBar::hidden().with_prefix("windows");
        bar.set_length(4);
        bar.set_position(1);
        let (end, received) = lines(&bar);
        assert!(received.recv_timeout(LONG).unwrap().starts_with("1/4 windows"));
        assert!(received.recv_timeout(5 * SOON).is_err(), "nothing has moved");
        bar.set_position(2);
        assert!(received.recv_timeout(LONG).unwrap().starts_with("2/4 windows"));
        drop(end);
        assert_eq!(received.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
    }
}
