//! The bundled model through the real command line, lowered for importers; ONNX's reference implementation executes what
//! comes out.

mod support;

use std::path::Path;

use support::{python, script, tiny, zqc, zqc_ok};

/// Rounds the bundled model as options say, in the groups that every target takes where they do not.
fn compile(output: &Path, options: &[&str]) {
    let model = tiny("model.onnx");
    let paths = [model.as_os_str(), "-o".as_ref(), output.as_os_str(), "--method".as_ref(), "rtn".as_ref()];
    let groups = ["--group-size", "64"].map(AsRef::as_ref);
    let groups = groups.into_iter().filter(|_| !options.contains(&"--group-size"));
    zqc_ok(paths.into_iter().chain(groups).chain(options.iter().map(|option| option.as_ref())));
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn the_reference_computes_what_the_portable_model_does() {
    let python = python();
    let folder = tempfile::tempdir().unwrap();
    let [native, portable] = ["native", "portable"].map(|target| folder.path().join(target));
    let recipes = [
        &[][..],
        &["--activations", "none"],
        &["--weights", "int4", "--activations", "int8"],
        &["--weights", "fp8", "--activations", "none", "--group-size", "0"],
        &["--scale", "m2", "--activations", "none"],
        &["--scale", "m2", "--lorc-factors", "bf16"],
    ];
    for recipe in recipes {
        compile(&native, &[recipe, &["--target", "native"]].concat());
        compile(&portable, &[recipe, &["--head", "float"]].concat());
        script(&python, "checker.py", [&native]);
        script(&python, "native.py", [native.as_os_str(), portable.as_os_str(), "2048".as_ref()]);
    }
}

#[test]
fn inspection_finds_the_layers() {
    let folder = tempfile::tempdir().unwrap();
    let recipes = [
        &[][..],
        &["--scale", "none", "--activations", "none", "--lorc-factors", "bf16"],
        &["--scale", "m2", "--activations", "e5m2", "--lorc-rank", "0"],
        &["--weights", "int4", "--activations", "int8"],
    ];
    for recipe in recipes {
        let [native, portable] = ["native", "portable"].map(|target| {
            let output = folder.path().join(target);
            compile(&output, &[recipe, &["--target", target, "--head", "float"]].concat());
            let text = zqc_ok(["inspect".as_ref(), output.as_os_str(), "--json".as_ref()]);
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["linears"].as_array().unwrap().clone()
        });
        assert_eq!((native.len(), portable.len()), (36, 36));
        for (native, portable) in native.iter().zip(&portable) {
            // A number of 4 bits in one form may have 8 in the other.
            let bits = |layer: &serde_json::Value| layer["bits_per_weight"].as_f64().unwrap();
            assert!((bits(native) - bits(portable)).abs() < 0.1, "{native} {portable}");
            for (key, value) in
                native.as_object().unwrap().iter().filter(|(key, _)| *key != "bits_per_weight")
            {
                assert_eq!(value, &portable[key], "{key} of {}", portable["layer"]);
            }
        }
    }
}

#[test]
fn evaluation_in_rten_asks_for_the_portable_model() {
    let folder = tempfile::tempdir().unwrap();
    let (text, tokenizer) = (tiny("heldout.txt"), tiny("tokenizer.json"));
    for weights in ["fp4", "int8"] {
        let output = folder.path().join(weights);
        compile(&output, &["--target", "native", "--weights", weights, "--activations", "none"]);
        let paths = ["eval".as_ref(), output.as_os_str(), "--text".as_ref(), text.as_os_str()];
        let tokenizer = ["--tokenizer".as_ref(), tokenizer.as_os_str()];
        // ONNX Runtime knows some of the native types.
        let options = ["--max-tokens", "64", "--backend", "rten"].map(|option| option.as_ref());
        let result = zqc(paths.into_iter().chain(tokenizer).chain(options));
        let message = String::from_utf8(result.stderr).unwrap();
        assert_eq!(result.status.code(), Some(3), "{message}");
        assert!(message.contains("--target portable"), "{message}");
    }
}

#[test]
fn weights_that_onnx_has_no_type_for_are_refused_before_anything_is_read() {
    let model = Path::new("missing.onnx");
    for weights in ["e3m0", "lut4"] {
        let options = ["-o", "unwritten.onnx", "--target", "native", "--weights", weights].map(Path::new);
        let result = zqc([model].into_iter().chain(options));
        let message = String::from_utf8(result.stderr).unwrap();
        assert_eq!(result.status.code(), Some(2), "{message}");
        assert!(message.contains("--target portable"), "{message}");
    }
}
