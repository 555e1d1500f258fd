//! How a user names layers.

use std::fmt;
use std::str::FromStr;

use regex::Regex;

/// A regular expression that is searched for in the names of a layer: its path, its node's and its weight's name.
#[derive(Debug, Clone)]
pub struct LayerPattern(Regex);

/// What is wrong with a regular expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl LayerPattern {
    /// Whether it is found in one of the names.
    pub fn matches(&self, names: &[&str]) -> bool {
        names.iter().any(|name| !name.is_empty() && self.0.is_match(name))
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for LayerPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Regex::new(text).map(Self).map_err(|error| PatternError(error.to_string()))
    }
}

impl fmt::Display for LayerPattern {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
