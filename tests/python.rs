//! The wheel: built, installed into a clean environment, and used as the README shows.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{python, repository};

/// Runs a command, which must succeed; its standard output.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// The Python of a new environment with the wheel in it, and with the versions that the tests use of what it runs with.
fn installed(folder: &Path) -> PathBuf {
    let wheels = repository("target/wheels");
    let _ = std::fs::remove_dir_all(&wheels);
    let program = std::env::current_exe().expect("the test's path");
    let libraries = program.parent().expect("the folder where cargo has built the libraries");
    run(Command::new(repository("python/build")).env("ZQC_LIBRARIES", libraries));
    let found = std::fs::read_dir(wheels).unwrap().map(|entry| entry.unwrap().path());
    let [wheel] = &found.collect::<Vec<_>>()[..] else { panic!("not one wheel") };
    run(Command::new(python()).args(["-m", "venv"]).arg(folder));
    let python = folder.join("bin/python");
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    let wheel = format!("{}[ort]", wheel.display());
    let constraints = repository("tests/requirements.txt");
    run(Command::new(&python).args(pip).arg(wheel).arg("--constraint").arg(constraints));
    python
}

/// The program in the README that begins with this line.
fn program_of_readme(first: &str) -> String {
    let readme = std::fs::read_to_string(repository("README.md")).unwrap();
    let lines = readme.lines().skip_while(|line| line.trim() != first);
    let program = lines.take_while(|line| line.is_empty() || line.starts_with("    "));
    program.map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect()
}

#[test]
#[ignore = "needs Python with onnxruntime, and minutes for the wheel: tests/run"]
fn the_wheel_compiles_and_runs_the_bundled_model() {
    let environment = tempfile::tempdir().unwrap();
    let python = installed(environment.path());
    let folder = tempfile::tempdir().unwrap();
    let tiny = repository("examples/tiny");
    let program = program_of_readme("import numpy, zqc, zqc.ort");
    let program = program.replace("examples/tiny", tiny.to_str().expect("a path in UTF-8"));
    assert!((5..=10).contains(&program.trim().lines().count()), "{program}");
    let printed = run(Command::new(&python).args(["-c", &program]).current_dir(&folder));
    assert!(printed.contains("(1, 3, 2048)"), "{printed}");
    run(Command::new(&python)
        .args(["-m", "unittest", "discover", "--start-directory"])
        .arg(repository("python/tests"))
        .env("ZQC_TINY", repository("examples/tiny"))
        .env_remove("ORT_DYLIB_PATH")
        .current_dir(&folder));
}
