//! Link arguments of the shared library.

fn main() {
    // Packing for CUDA starts threads that outlive the sessions, so the library must not be unmapped when the last one is closed.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
