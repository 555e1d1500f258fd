//! ONNX Runtime runs models and what passes make of them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use zqc_ir::{Model, onnx};

use crate::kinds::python;

/// Two models that are to yield the same.
pub struct Pair {
    pub name: String,
    pub model: Model,
    pub other: Model,
    /// The inputs that are integers, by name, as JSON.
    pub integers: &'static str,
}

/// Asserts that each pair yields the same but for the order of additions.
pub fn assert_agree(pairs: impl Iterator<Item = Pair>) {
    let folder = tempfile::tempdir().unwrap();
    let (mut names, mut lines) = (Vec::new(), String::new());
    for (at, pair) in pairs.enumerate() {
        for (model, file) in
            [(&pair.model, format!("{at}.model.onnx")), (&pair.other, format!("{at}.other.onnx"))]
        {
            onnx::write(model, &folder.path().join(file), onnx::Storage::Inline).unwrap();
        }
        names.push(pair.name);
        lines.push_str(&pair.integers.split_whitespace().collect::<String>());
        lines.push('\n');
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/ort/agree.py");
    let mut child = Command::new(python())
        .arg(script)
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let errors = String::from_utf8(output.stdout).unwrap();
    assert_eq!(errors.lines().count(), names.len(), "{errors}");
    for (name, error) in names.iter().zip(errors.lines()) {
        // Sums of at most 100 products in another order differ by a few 2^-24.
        assert!(error.parse::<f64>().unwrap() < 2e-6, "{name}: {error}");
    }
}
