//! Where results go: only regular files are replaced, links are followed, folders are for packages.

use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::bench::Bench;
use crate::models::one_layer;
use crate::support::{tiny, zqc};

/// A FIFO of our own, at which nobody reads or writes.
fn fifo(bench: &Bench, name: &str) -> std::path::PathBuf {
    let path = bench.path(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

fn is_fifo(path: &Path) -> bool {
    std::fs::symlink_metadata(path).unwrap().file_type().is_fifo()
}

/// Runs `zqc MODEL --method rtn OPTIONS`, which must end with `code` and name each of `words` in its message.
fn refuse(code: i32, options: &[&str], words: &[&str]) {
    let model = tiny("model.onnx");
    let output = zqc([model.to_str().unwrap(), "--method", "rtn"].iter().chain(options));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    words.iter().for_each(|word| assert!(message.contains(word), "no {word:?} in: {message}"));
}

#[test]
fn a_fifo_is_never_replaced() {
    let bench = Bench::new();
    let pipe = fifo(&bench, "pipe.json");
    let link = bench.path("link.json");
    symlink(&pipe, &link).unwrap();
    let output = bench.output();
    for path in [&pipe, &link].map(|path| path.to_str().unwrap()) {
        for emit in ["onnx", "ir"] {
            refuse(4, &["-o", path, "--emit", emit], &["cannot write", path, "a FIFO"]);
        }
        refuse(4, &["-o", path, "--emit", "cuda"], &["cannot write", path]);
        refuse(4, &["-o", output.to_str().unwrap(), "--report", path], &["cannot write", path, "a FIFO"]);
    }
    assert!(is_fifo(&pipe) && link.is_symlink() && !output.exists());
    assert_eq!(bench.names(""), ["link.json", "out", "pipe.json"]);
}

#[test]
fn links_are_followed() {
    let bench = Bench::new();
    let model = bench.model(&one_layer());
    bench.compile(&model, &bench.output(), &["--method", "rtn"]);
    let expected = std::fs::read(bench.output()).unwrap();
    bench.write("there.onnx", "the model before");
    for (link, target) in
        [("to_a_file", "../there.onnx"), ("to_nothing", "../new.onnx"), ("to_a_link", "to_nothing")]
    {
        let link = bench.path("out").join(link);
        symlink(target, &link).unwrap();
        bench.compile(&model, &link, &["--method", "rtn"]);
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new(target));
        assert!(std::fs::read(&link).unwrap() == expected, "{target}");
    }
    assert_eq!(bench.names(""), ["model.onnx", "new.onnx", "out", "there.onnx"]);
    let report = bench.path("out/report.json");
    symlink("../report.json", &report).unwrap();
    bench.compile(&model, &bench.output(), &["--method", "rtn", "--report", report.to_str().unwrap()]);
    assert!(report.is_symlink() && std::fs::metadata(bench.path("report.json")).unwrap().is_file());
}

#[test]
fn the_mode_of_a_file_that_is_replaced_stays() {
    let bench = Bench::new();
    let model = bench.model(&one_layer());
    let report = bench.path("report.html");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for wanted in [0o600, 0o664] {
        for path in [&bench.output(), &report] {
            std::fs::write(path, "before").unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(wanted)).unwrap();
        }
        bench.compile(&model, &bench.output(), &["--method", "rtn", "--report", report.to_str().unwrap()]);
        assert_eq!([mode(&bench.output()), mode(&report)], [wanted; 2]);
    }
}

#[test]
fn folders_are_for_packages() {
    let bench = Bench::new();
    let there = bench.path("out");
    for folder in [
        format!("{}/", bench.path("new").display()),
        there.display().to_string(),
        bench.path("x.zqcuda/").display().to_string(),
    ] {
        for emit in ["onnx", "ir"] {
            refuse(4, &["-o", &folder, "--emit", emit], &["cannot write", "is a directory", "--emit cuda"]);
        }
    }
    assert_eq!(bench.names(""), ["out"]);
    let report = format!("{}/report.json", bench.path("out").display());
    std::fs::create_dir(&report).unwrap();
    let output = bench.output();
    refuse(4, &["-o", output.to_str().unwrap(), "--report", &report], &["cannot write", "is a directory"]);
}

#[test]
fn a_dash_is_no_output() {
    let bench = Bench::new();
    let model = bench.model(&one_layer());
    let run = |output: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zqc"));
        command.arg(&model).args(["-o", output, "--method", "rtn"]).current_dir(bench.path("out"));
        command.output().unwrap()
    };
    let refused = run("-");
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{message}");
    assert!(message.contains("-o -") && message.contains("-o ./-"), "{message}");
    assert_eq!((refused.stdout.len(), bench.names("out").len()), (0, 0));
    assert!(run("./-").status.success());
    assert_eq!(bench.names("out"), ["-"]);
}

#[test]
fn a_report_does_not_take_the_place_of_the_output() {
    let bench = Bench::new();
    let output = bench.path("out/model.json");
    refuse(
        2,
        &["-o", output.to_str().unwrap(), "--report", output.to_str().unwrap()],
        &["--report", "output"],
    );
}
