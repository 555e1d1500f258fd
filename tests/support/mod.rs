//! Runs the real command line, and Python with stock ONNX Runtime.
#![allow(dead_code)] // each test program uses its part

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A file of the bundled model's folder.
pub fn tiny(file: &str) -> PathBuf {
    repository("examples/tiny").join(file)
}

/// Runs `zqc` with these arguments.
pub fn zqc<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zqc")).args(arguments).output().expect("zqc starts")
}

/// Runs `zqc`, which must succeed; returns its standard output.
pub fn zqc_ok<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> String {
    let output = zqc(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8 output")
}

/// The Python of `tests/run`, with onnxruntime in it.
pub fn python() -> PathBuf {
    std::env::var_os("ZQC_PYTHON")
        .expect("ZQC_PYTHON names a Python with onnxruntime; tests/run sets it up")
        .into()
}

/// The versions of ONNX Runtime that `tests/run` installed: their folders, and none for that of the requirements.
pub fn versions() -> Vec<Option<PathBuf>> {
    let folder = std::env::var_os("ZQC_ONNXRUNTIMES").expect("ZQC_ONNXRUNTIMES; tests/run sets it up");
    let entries = std::fs::read_dir(&folder).expect("the folder of ONNX Runtime's versions");
    let found = entries.map(|entry| entry.expect("an entry").path());
    let found = found.filter(|path| path.extension().is_none_or(|ending| ending != "part")).map(Some);
    let versions: Vec<_> = found.chain([None]).collect();
    assert!(versions.len() >= 2, "too few versions of ONNX Runtime in {}", folder.display());
    versions
}

/// Runs a script of `tests/ort`, which must succeed; returns its standard output.
pub fn script<A: AsRef<OsStr>>(python: &Path, name: &str, arguments: impl IntoIterator<Item = A>) -> String {
    let output = Command::new(python)
        .arg(repository("tests/ort").join(name))
        .args(arguments)
        .output()
        .expect("Python starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {error}");
    String::from_utf8(output.stdout).expect("UTF-8 output")
}

/// What to measure perplexity on.
pub struct Text {
    pub text: PathBuf,
    pub tokenizer: PathBuf,
    pub window: usize,
    pub max_tokens: usize,
}

impl Text {
    /// Perplexity by `zqc eval`.
    pub fn by_zqc(&self, model: &Path) -> f64 {
        let (window, tokens) = (self.window.to_string(), self.max_tokens.to_string());
        perplexity(&zqc_ok([
            OsStr::new("eval"),
            model.as_os_str(),
            "--text".as_ref(),
            self.text.as_os_str(),
            "--tokenizer".as_ref(),
            self.tokenizer.as_os_str(),
            "--window".as_ref(),
            window.as_ref(),
            "--max-tokens".as_ref(),
            tokens.as_ref(),
            "--json".as_ref(),
        ]))
    }

    /// Perplexity by stock ONNX Runtime.
    pub fn by_onnxruntime(&self, python: &Path, model: &Path) -> f64 {
        let (window, tokens) = (self.window.to_string(), self.max_tokens.to_string());
        perplexity(&script(
            python,
            "perplexity.py",
            [
                model.as_os_str(),
                self.text.as_os_str(),
                self.tokenizer.as_os_str(),
                window.as_ref(),
                tokens.as_ref(),
            ],
        ))
    }
}

fn perplexity(json: &str) -> f64 {
    let result: serde_json::Value = serde_json::from_str(json).expect("JSON");
    result["perplexity"].as_f64().expect("a perplexity")
}
