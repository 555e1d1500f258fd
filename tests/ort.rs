//! The back end `ort` through the real command line: ONNX Runtime, found where `ORT_DYLIB_PATH` or the Python on `PATH` says.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use support::{python, tiny, zqc_ok};

/// `zqc eval` of 640 tokens on this back end.
fn eval(model: &Path, backend: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zqc"));
    command.arg("eval").arg(model).arg("--text").arg(tiny("heldout.txt"));
    command.arg("--tokenizer").arg(tiny("tokenizer.json"));
    command.args(["--window", "64", "--max-tokens", "640", "--json", "--backend", backend]);
    command
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The mean negative log likelihood that an evaluation prints.
fn nll(output: &Output) -> f64 {
    assert!(output.status.success(), "{}", message(output));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    result["nll"].as_f64().unwrap()
}

fn compile(output: &Path, options: &[&str]) -> serde_json::Value {
    let (model, report) = (tiny("model.onnx"), output.with_extension("json"));
    let (calibration, tokenizer) = (tiny("calibration.txt"), tiny("tokenizer.json"));
    let paths =
        [model.as_os_str(), "-o".as_ref(), output.as_os_str(), "--report".as_ref(), report.as_os_str()];
    let data =
        ["--calibration".as_ref(), calibration.as_os_str(), "--tokenizer".as_ref(), tokenizer.as_os_str()];
    // Enough for every layer: where they are few, one back end may round to nearest what the other solves.
    let fixed = ["--samples", "16", "--seq-len", "64"].map(|option| option.as_ref());
    let options = options.iter().map(|option| option.as_ref());
    zqc_ok(paths.into_iter().chain(data).chain(fixed).chain(options));
    serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap()
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn layers_are_calibrated_as_in_the_embedded_back_end() {
    let folder = tempfile::tempdir().unwrap();
    let [rten, ort] = ["rten", "ort"].map(|backend| {
        compile(&folder.path().join(backend), &["--backend", backend])["layers"].as_array().unwrap().clone()
    });
    assert_eq!((rten.len(), ort.len()), (36, 36));
    // But the head, which is rounded without data.
    for (rten, ort) in rten.iter().zip(&ort).filter(|(layer, _)| layer["layer"] != "lm_head") {
        // Codes that fall to the other side change the layers behind them: by what the layers lose, no more.
        for key in ["weight_error", "output_error"] {
            let [rten, ort] = [rten, ort].map(|layer| layer[key].as_f64().unwrap());
            assert!((ort / rten - 1.0).abs() < 0.1, "{key}: {rten} by rten, {ort} by ort");
        }
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn evaluation_gives_what_the_embedded_back_end_does() {
    let folder = tempfile::tempdir().unwrap();
    let quantized = folder.path().join("quantized.onnx");
    // Without activations that are rounded, those of the head included, all that differs is the order of additions.
    compile(&quantized, &["--method", "rtn", "--activations", "none", "--head", "float"]);
    for model in [tiny("model.onnx"), quantized] {
        let [rten, ort] = ["rten", "ort"].map(|backend| nll(&eval(&model, backend).output().unwrap()));
        assert!((ort / rten - 1.0).abs() < 1e-5, "{model:?}: {rten} by rten, {ort} by ort");
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn the_library_of_a_python_is_found() {
    let python = python();
    let (folder, nowhere) = (python.parent().unwrap(), tempfile::tempdir().unwrap());
    for (variable, value) in [("PATH", folder), ("VIRTUAL_ENV", folder.parent().unwrap())] {
        let mut command = eval(&tiny("model.onnx"), "ort");
        command.env_remove("ORT_DYLIB_PATH").env_remove("VIRTUAL_ENV").env("PATH", nowhere.path());
        let output = command.env(variable, value).output().unwrap();
        nll(&output);
        assert!(message(&output).contains("ran the standard operators"), "{}", message(&output));
    }
}

#[test]
fn a_library_that_is_not_there_is_an_error_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model.onnx");
    let missing = folder.path().join("libonnxruntime.so");
    for (library, reason) in
        [(missing.as_os_str(), "libonnxruntime.so"), ("".as_ref(), "python3 does not run")]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zqc"));
        command.arg(tiny("model.onnx")).arg("-o").arg(&output).args(["--backend", "ort", "--samples", "1"]);
        command.env("ORT_DYLIB_PATH", library).env_remove("VIRTUAL_ENV").env("PATH", folder.path());
        let result = command.output().unwrap();
        assert_eq!(result.status.code(), Some(3), "{}", message(&result));
        for word in [reason, "pip install onnxruntime", "set ORT_DYLIB_PATH", "use the back end rten"] {
            assert!(message(&result).contains(word), "no {word:?} in: {}", message(&result));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
#[ignore = "needs a C++ compiler: tests/run"]
fn a_library_that_is_too_old_is_an_error_with_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("old.cc"), folder.path().join("libonnxruntime.so"));
    let old = r#"
        struct Base { const void* (*api)(unsigned); const char* (*version)(); };
        static const void* api(unsigned) { return nullptr; }
        static const char* version() { return "1.18.1"; }
        static const Base base = {api, version};
        extern "C" const Base* OrtGetApiBase() { return &base; }
    "#;
    std::fs::write(&source, old).unwrap();
    let compiled = Command::new("c++").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(compiled.unwrap().success());
    let result = eval(&tiny("model.onnx"), "ort").env("ORT_DYLIB_PATH", &library).output().unwrap();
    assert_eq!(result.status.code(), Some(3), "{}", message(&result));
    for word in ["ONNX Runtime 1.18.1", "is too old", "1.24", "pip install --upgrade onnxruntime"] {
        assert!(message(&result).contains(word), "no {word:?} in: {}", message(&result));
    }
}
