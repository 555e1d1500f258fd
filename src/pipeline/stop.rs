//! Where a pipeline stops, for a bad change to be found by bisection.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// The place after which a pipeline makes no more changes: `canonicalize`, `canonicalize:12` or `137`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopAfter {
    /// A pass, or the first so many of its changes.
    Pass {
        /// The name of the pass.
        name: String,
        /// How many of its changes are made, those in subgraphs counted after those in the main graph; `None` for all.
        changes: Option<usize>,
    },
    /// So many changes of all passes together.
    Change(usize),
}

impl FromStr for StopAfter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse() {
            return Ok(Self::Change(number));
        }
        let (name, changes) = match text.split_once(':') {
            Some((name, number)) => {
                let number = number.parse().map_err(|_| format!("{number:?} is no number of changes"))?;
                (name, Some(number))
            }
            None => (text, None),
        };
        match name {
            "" => {
                Err("name a pass, a pass and a number of its changes (canonicalize:12), or a number"
                    .to_string())
            }
            name => Ok(Self::Pass { name: name.to_string(), changes }),
        }
    }
}

impl fmt::Display for StopAfter {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Pass { name, changes: None } => f.write_str(name),
            Self::Pass { name, changes: Some(changes) } => write!(f, "{name}:{changes}"),
            Self::Change(number) => write!(f, "{number}"),
        }
    }
}

/// Counts the changes of a compilation.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    all: usize,
    of_pass: HashMap<&'static str, usize>,
    stopped: bool,
}

impl Changes {
    /// Whether no more changes are to be made.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// How many more changes `pass` may make.
    pub fn limit(&self, pass: &str, stop: Option<&StopAfter>) -> usize {
        match stop {
            Some(StopAfter::Change(number)) => number.saturating_sub(self.all),
            Some(StopAfter::Pass { name, changes: Some(changes) }) if name == pass => {
                changes.saturating_sub(self.of_pass.get(pass).copied().unwrap_or_default())
            }
            None | Some(StopAfter::Pass { .. }) => usize::MAX,
        }
    }

    /// Notes that `pass` has run and made changes for these reasons, and logs each with its numbers.
    pub fn note(&mut self, pass: &'static str, reasons: &[String], stop: Option<&StopAfter>) {
        let of_pass = self.of_pass.entry(pass).or_default();
        for why in reasons {
            (self.all, *of_pass) = (self.all + 1, *of_pass + 1);
            tracing::debug!("{} {pass}:{of_pass} {why}", self.all);
        }
        let ran = matches!(stop, Some(StopAfter::Pass { name, changes: None }) if name == pass);
        self.stopped |= ran || self.limit(pass, stop) == 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Changes, StopAfter};

    #[test]
    fn places_are_read_as_they_are_printed() {
        for text in ["canonicalize", "canonicalize:12", "137"] {
            assert_eq!(text.parse::<StopAfter>().unwrap().to_string(), text);
        }
        for text in ["", ":3", "select:", "select:x", "select:-1"] {
            assert!(text.parse::<StopAfter>().is_err(), "{text}");
        }
    }

    #[test]
    fn changes_are_counted_over_runs_of_a_pass_and_over_all_passes() {
        let reasons = |count: usize| vec![String::new(); count];
        let stops = |stop: &str, runs: &[(&'static str, usize)]| -> Vec<usize> {
            let (stop, mut changes) = (stop.parse().unwrap(), Changes::default());
            let mut made = Vec::new();
            for &(pass, wants) in runs {
                if !changes.stopped() {
                    let makes = wants.min(changes.limit(pass, Some(&stop)));
                    changes.note(pass, &reasons(makes), Some(&stop));
                    made.push(makes);
                }
            }
            made
        };
        let runs = [("a", 3), ("b", 2), ("a", 4), ("b", 1)];
        assert_eq!(stops("a", &runs), [3]);
        assert_eq!(stops("a:5", &runs), [3, 2, 2]);
        assert_eq!(stops("b:0", &runs), [3, 0]);
        assert_eq!(stops("4", &runs), [3, 1]);
        assert_eq!(stops("b:9", &runs), [3, 2, 4, 1]);
    }
}
