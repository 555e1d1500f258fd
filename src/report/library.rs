//! A library that was found at run time.

use std::fmt;

use serde::Serialize;
use zqc_runtime::UsedLibrary;

/// The ONNX Runtime that ran operators in calibration, evaluation or the verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LibraryReport {
    /// Where the library lies.
    pub path: String,
    /// Its version, where its file name tells.
    pub version: Option<String>,
    /// The operators that the embedded back end could not run; none where ONNX Runtime was chosen to run all.
    pub operators: Vec<String>,
}

impl LibraryReport {
    /// Adds what an earlier use of the library says.
    pub(crate) fn merge(&mut self, earlier: Self) {
        self.operators.extend(earlier.operators);
        self.operators.sort();
        self.operators.dedup();
    }
}

impl From<UsedLibrary> for LibraryReport {
    fn from(library: UsedLibrary) -> Self {
        Self {
            path: library.path.display().to_string(),
            version: library.version,
            operators: library.operators.into_iter().collect(),
        }
    }
}

impl fmt::Display for LibraryReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let version = self.version.as_ref().map_or(String::new(), |version| format!(" {version}"));
        write!(f, "ONNX Runtime{version} ({})", self.path)?;
        if self.operators.is_empty() {
            return write!(f, " ran the standard operators");
        }
        write!(f, " ran what rten cannot: {}", self.operators.join(", "))
    }
}
