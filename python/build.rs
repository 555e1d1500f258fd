//! A wheel ships libraries beside the compiler, which another build puts there; one without them is not built.

use std::path::Path;

/// Where they lie, in this folder.
const FOLDER: &str = "zqc/lib";
const LIBRARIES: [&str; 2] = ["libzqc_ort.so", "libzqc_cuda.so"];

fn main() {
    println!("cargo::rerun-if-changed={FOLDER}");
    if std::env::var_os("CARGO_FEATURE_WHEEL").is_none() {
        return;
    }
    for library in LIBRARIES.iter().map(|name| Path::new(FOLDER).join(name)) {
        if !library.is_file() {
            println!("cargo::error=python/{} is missing: build the wheel by python/build", library.display());
        }
    }
}
