//! Finds ONNX Runtime's shared library.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ort::LoadDynamicError;

use super::super::error::LibraryError;

/// The file names under which it comes, by what they begin with.
const NAMES: [&str; 4] =
    ["libonnxruntime.so", "libonnxruntime.dylib", "libonnxruntime.1.", "onnxruntime.dll"];

/// The first name, as the system's loader knows it.
const ON_SYSTEM_PATH: &str = if cfg!(windows) {
    "onnxruntime.dll"
} else if cfg!(target_vendor = "apple") {
    "libonnxruntime.dylib"
} else {
    "libonnxruntime.so"
};

/// Where a virtual environment has its Python.
const IN_ENVIRONMENT: &str = if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" };

/// Loads the library that ORT_DYLIB_PATH names; without it, the one in the package onnxruntime of the active virtual
/// environment or of the Python on PATH, or else the system's. Where one of these does not load, the next is tried.
pub fn load() -> Result<PathBuf, LibraryError> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return load_from(path.into());
    }
    let mut tried = Vec::new();
    let mut failure = None;
    let active = env::var_os("VIRTUAL_ENV").map(|folder| PathBuf::from(folder).join(IN_ENVIRONMENT).into());
    for python in active.into_iter().chain(["python3", "python"].map(OsString::from)) {
        match in_python(&python) {
            Ok(path) => match load_from(path) {
                Ok(path) => return Ok(path),
                Err(error) => failure = failure.or(Some(error)),
            },
            Err(reason) => tried.push(format!("{} {reason}", python.display())),
        }
    }
    load_from(ON_SYSTEM_PATH.into()).map_err(|_| {
        tried.push(format!("the system has no {ON_SYSTEM_PATH}"));
        failure.unwrap_or_else(|| LibraryError::NotFound { tried: tried.join(", ") })
    })
}

fn load_from(path: PathBuf) -> Result<PathBuf, LibraryError> {
    match ort::init_from(&path) {
        Ok(_) => Ok(path),
        Err(LoadDynamicError::BadVersion { version_str, path }) => {
            Err(LibraryError::Old { path, version: version_str })
        }
        Err(error) => Err(LibraryError::Unusable { reason: error.to_string() }),
    }
}

/// The library in the package onnxruntime of a Python, which need not import it. A folder of that name in the working directory,
/// where Python looks first, is none that anybody installed.
fn in_python(python: &OsString) -> Result<PathBuf, String> {
    const PRINT_PACKAGE: &str = "import sys; sys.path = [p for p in sys.path if p]; import importlib.util as u; \
                                 print(*u.find_spec('onnxruntime').submodule_search_locations)";
    let mut command = Command::new(python);
    command.args(["-c", PRINT_PACKAGE]).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("does not run: {error}"))?;
    if !output.status.success() {
        return Err("has no package onnxruntime".to_string());
    }
    let folder = Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("capi");
    let entries = folder.read_dir().map_err(|error| format!("has no {}: {error}", folder.display()))?;
    let mut libraries: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_library(path)).collect();
    libraries.sort();
    libraries.pop().ok_or_else(|| format!("has no library in {}", folder.display()))
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    NAMES.iter().any(|start| name.starts_with(start))
}

/// The version of the library, by the name of its file: `libonnxruntime.so.1.32.0`.
pub fn version(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let name = path.file_name()?.to_string_lossy();
    let digits = &name[name.find(|letter: char| letter.is_ascii_digit())?..];
    let end = digits.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(digits.len());
    Some(digits[..end].trim_end_matches('.').to_string())
}
