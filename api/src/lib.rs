//! The public interface of every crate that is published, as text in `docs/api`. `cargo run -p zqc-api` writes it; the test compares.
//!
//! It is read from the sources, so that it needs no nightly compiler and is the same for each. What `ir/build.rs` generates of ONNX's
//! schema is not in it.

mod listing;
mod render;
mod source;

use std::path::{Path, PathBuf};

use source::Module;

/// The crates by the names in code, with the folders of their sources.
const CRATES: [(&str, &str); 11] = [
    ("zqc", "src"),
    ("zqc_cuda", "cuda/src"),
    ("zqc_ir", "ir/src"),
    ("zqc_kernels", "kernels/src"),
    ("zqc_linear", "linear/src"),
    ("zqc_formats", "formats/src"),
    ("zqc_gradient", "gradient/src"),
    ("zqc_solvers", "solvers/src"),
    ("zqc_ort", "ort-ops/src"),
    ("zqc_passes", "passes/src"),
    ("zqc_runtime", "runtime/src"),
];

/// The files of the listings in the workspace, each with what it is to hold.
///
/// # Errors
/// When a source file cannot be read or parsed, with its path.
pub fn listings() -> Result<Vec<(PathBuf, String)>, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let listing = |(name, folder): (&str, &str)| {
        let root = Module::root(&workspace.join(folder))?;
        Ok((workspace.join(format!("docs/api/{name}.txt")), listing::listing(name, &root)))
    };
    CRATES.into_iter().map(listing).collect()
}
