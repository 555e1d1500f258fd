//! A short run of every target: the same inputs every time, of which none may show a fault.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Changed inputs of a target; the onnx target, the slowest, takes some seconds for them.
const INPUTS: &str = "4000";

/// The targets: each has a folder of the corpus.
fn targets() -> Vec<String> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let entries = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path());
    let folders = entries.filter(|path| path.is_dir());
    folders.map(|path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_string()).collect()
}

fn start(target: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zqc-fuzz"));
    command.args([target, "--inputs", INPUTS, "--seed", "0"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn nothing_is_found_in_any_target() {
    let targets = targets();
    let runs: Vec<Child> = targets.iter().map(|target| start(target)).collect();
    for (target, run) in targets.iter().zip(runs) {
        let output = run.wait_with_output().unwrap();
        let [said, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{target}: {error}");
        let expected = format!("{target}: {INPUTS} inputs, ");
        assert!(said.starts_with(&expected) && said.trim_end().ends_with("nothing found"), "{said}{error}");
    }
}

#[test]
fn every_target_has_its_folder() {
    let output = Command::new(env!("CARGO_BIN_EXE_zqc-fuzz")).arg("none").output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    let (_, names) = message.split_once("there are ").unwrap();
    let mut names: Vec<&str> = names.lines().next().unwrap().split(", ").collect();
    names.sort();
    let mut folders = targets();
    folders.sort();
    assert_eq!(names, folders);
}
