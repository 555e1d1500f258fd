//! Every way in: Rust, C and C++; Python's is in python/tests. Without a Hopper GPU each says why it is closed, in one line. Where there is one, the
//! programs are started without it.

mod support;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{Random, Spec};
use tempfile::TempDir;
use zqc_cuda::{Device, Error, Package};

/// What a program says that has no device.
fn reason() -> String {
    let error = Device::new(usize::MAX).unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    match error {
        Error::NoDevice { .. } => Error::NoDevice { ordinal: 0, count: 0 }.to_string(),
        other => other.to_string(),
    }
}

fn write_package() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(1);
    let attention = ["q", "k"].map(|name| Spec::new(16, 64, 32, 8).bias().layer(name, &mut random));
    let output = [Spec::new(64, 16, 0, 0).layer("o", &mut random)];
    support::package(folder.path(), &[attention.to_vec(), output.to_vec()]);
    let path = folder.path().join("model.zqcuda");
    (folder, path)
}

/// The folder of the libraries that cargo built with this test.
fn libraries() -> PathBuf {
    env::current_exe().unwrap().parent().unwrap().to_path_buf()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// What the command gives, with no device in its sight.
fn run(command: &mut Command) -> Output {
    let output = command.env("CUDA_VISIBLE_DEVICES", "").output();
    output.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()))
}

/// A program linked with the library of this build, which comes before others that cargo lets the loader find.
fn linked(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", libraries());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn compile(compiler: &str, language: &[&str], source: &Path, output: &Path) {
    let include = format!("-I{}", repository().join("cuda/include").display());
    let result = run(Command::new(compiler)
        .args(language)
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", &include, "-o"])
        .args([output, source])
        .arg("-L")
        .arg(libraries())
        .args(["-lzqc_cuda", "-ldl"]));
    assert!(result.status.success(), "{}", text(&result.stderr));
}

#[test]
fn rust_says_why() {
    let reason = reason();
    assert_eq!(reason.lines().count(), 1, "{reason}");
}

#[test]
fn a_package_opens_without_a_device() {
    let (_folder, path) = write_package();
    let package = Package::open(&path).unwrap();
    assert_eq!(package.manifest().layers.len(), 3);
}

#[test]
fn c_says_why_and_exits_with_3() {
    let (folder, package) = write_package();
    let program = folder.path().join("linear");
    let source = repository().join("examples/c/linear.c");
    compile("cc", &["-std=c11"], &source, &program);

    let output = run(linked(&program).arg(folder.path()));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("manifest.json"), "{}", text(&output.stderr));

    let output = run(linked(&program).arg(&package));
    assert_eq!(text(&output.stderr), format!("linear: {}\n", reason()));
    assert_eq!(output.status.code(), Some(3));
}

#[test]
#[ignore = "needs a C++ compiler: tests/run"]
fn the_header_is_cpp_too() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("open.cpp");
    let program = folder.path().join("open");
    let text_of_source = r#"
        #include "zqc_cuda.h"
        #include <cstring>
        int main() {
            if (zqc_cuda_version() != ZQC_CUDA_VERSION) return 12;
            zqc_package *package = nullptr;
            if (zqc_package_open("no such folder", &package) != ZQC_BAD_PACKAGE || package) return 1;
            if (!std::strstr(zqc_last_error(), "no such folder")) return 2;
            if (zqc_package_open(nullptr, &package) != ZQC_INVALID_ARGUMENT) return 3;
            if (std::strcmp(zqc_last_error(), "the folder is null")) return 4;
            if (zqc_package_open("no such folder", nullptr) != ZQC_INVALID_ARGUMENT) return 5;
            if (zqc_package_layer(nullptr, 0, nullptr) != ZQC_INVALID_ARGUMENT) return 6;
            if (zqc_model_load(nullptr, 0, ZQC_FAST, nullptr) != ZQC_INVALID_ARGUMENT) return 7;
            if (zqc_quantize(nullptr, 0, nullptr, 1, nullptr, nullptr) != ZQC_INVALID_ARGUMENT) return 8;
            if (zqc_linear_apply(nullptr, 0, nullptr, nullptr, nullptr) != ZQC_INVALID_ARGUMENT) return 9;
            if (zqc_quantize_into(nullptr, 0, nullptr, 1, nullptr, nullptr) != ZQC_INVALID_ARGUMENT) return 13;
            if (zqc_linear_apply_from(nullptr, 0, nullptr, 1, nullptr, nullptr) != ZQC_INVALID_ARGUMENT) return 14;
            if (zqc_linear_forward(nullptr, 0, nullptr, 1, nullptr, nullptr) != ZQC_INVALID_ARGUMENT) return 10;
            if (zqc_package_layer_count(nullptr) != 0) return 11;
            zqc_package_close(nullptr);
            zqc_model_destroy(nullptr);
            zqc_scratch_destroy(nullptr);
            return 0;
        }
    "#;
    fs::write(&source, text_of_source).unwrap();
    compile("c++", &["-std=c++17"], &source, &program);
    assert_eq!(run(&mut linked(&program)).status.code(), Some(0));
}
