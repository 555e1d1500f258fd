//! Where MODEL may stand among options that take several values, and options that do not go together.

use std::path::Path;

use crate::bench::Bench;
use crate::models::one_layer;
use crate::support::zqc;

const PLAIN: [&str; 2] = ["--method", "rtn"];

/// Runs `zqc` in a folder with `model.onnx`, `bare` (the same), `other.onnx` and `data.jsonl`.
fn run(arguments: &str) -> (Bench, Option<i32>, String) {
    let bench = Bench::new();
    let model = bench.model(&one_layer());
    for copy in ["bare", "other.onnx"] {
        std::fs::copy(&model, bench.path(copy)).unwrap();
    }
    let line = format!("{{\"x\": {:?}, \"shift\": {:?}}}\n", [0.5; 64], [0.25; 32]);
    bench.write("data.jsonl", line.repeat(4));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_zqc"));
    let output = command.args(PLAIN).args(arguments.split(' ')).current_dir(bench.path("")).output().unwrap();
    (bench, output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_model_may_stand_behind_an_option_with_several_values() {
    for (arguments, quantized) in [
        ("-o out.onnx --keep nothing model.onnx", true),
        ("-o out.onnx --keep nothing proj model.onnx", false),
        ("-o out.onnx --keep proj -- model.onnx", false),
        ("--keep proj model.onnx -o out.onnx", false),
        ("--only proj bare -o out.onnx", true),
        ("-o out.onnx --calibration data.jsonl model.onnx", true),
        ("--calibration data.jsonl data.jsonl model.onnx --keep nothing -o out.onnx", true),
        ("--calibration data.jsonl model.onnx --keep nothing absent -o out.onnx", true),
        ("--keep a model.onnx --keep proj -o out.onnx", false),
        ("--keep proj --only x.onnx model.onnx -o out.onnx", false),
        // As before: the model first, or behind an option with one value.
        ("model.onnx --keep nothing absent -o out.onnx", true),
        ("model.onnx --calibration data.jsonl data.jsonl -o out.onnx", true),
        ("--keep nothing -o out.onnx model.onnx", true),
        ("model.onnx --keep proj other.onnx -o out.onnx", false),
    ] {
        let (bench, code, message) = run(arguments);
        assert_eq!(code, Some(0), "{arguments}: {message}");
        assert!(bench.path("out.onnx").exists(), "{arguments}");
        assert_eq!(message.contains("1 layers"), quantized, "{arguments}: {message}");
    }
}

#[test]
fn a_model_that_is_not_there_or_could_be_two_is_told() {
    for (arguments, words) in [
        ("-o out.onnx --keep lm_head", &["MODEL", "--keep"][..]),
        ("-o out.onnx --keep lm_head proj", &["MODEL is missing", "--keep", "--"]),
        ("-o out.onnx --calibration data.jsonl data.jsonl", &["MODEL is missing"]),
        ("-o out.onnx", &["MODEL is missing"]),
        (
            "--keep a model.onnx --only b other.onnx -o out.onnx",
            &["\"model.onnx\" of --keep", "\"other.onnx\" of --only"],
        ),
        ("--keep ( model.onnx -o out.onnx", &["--keep", "unclosed group"]),
    ] {
        let (bench, code, message) = run(arguments);
        assert_eq!(code, Some(2), "{arguments}: {message}");
        words.iter().for_each(|word| assert!(message.contains(word), "{arguments}: {message}"));
        assert!(!bench.path("out.onnx").exists());
    }
    let (_, code, message) = run("-o out.onnx --keep lm_head absent.onnx");
    assert!(code == Some(3) && message.contains("absent.onnx: cannot read the model"), "{message}");
}

#[test]
fn help_says_where_things_are() {
    let help = String::from_utf8(zqc(["--help"]).stdout).unwrap();
    for heading in ["Output:", "Quantization:", "Calibration:", "Runtime:"] {
        assert!(help.contains(&format!("\n{heading}\n")), "{help}");
    }
    assert!(help.contains("zqc <MODEL> --output <OUTPUT> [OPTIONS]") && help.contains("docs/calibration.md"));
}

/// Every combination of formats ends with a result or as bad usage, before the model is read.
#[test]
fn formats_that_do_not_go_together_are_bad_usage() {
    let bench = Bench::new();
    let model = bench.model(&one_layer());
    let run = |model: &Path, output: &Path, options: &[&str]| {
        let arguments = [model.as_os_str(), "-o".as_ref(), output.as_os_str()];
        let output = zqc(arguments.into_iter().chain(options.iter().map(|option| option.as_ref())));
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let mut refused = 0;
    for weights in ["fp4", "lut4", "e3m0", "fp8", "int8", "int4", "int4-sym"] {
        for scale in ["none", "m1", "m2-floor", "m3", "m8"] {
            for (emit, target) in
                [("onnx", "portable"), ("onnx", "native"), ("cuda", "portable"), ("cuda", "native")]
            {
                let formats = ["--weights", weights, "--scale", scale, "--emit", emit, "--target", target];
                let options = [&PLAIN[..], &formats].concat();
                let output = bench.path(&format!("out/{weights}.{scale}.{emit}.{target}"));
                let (code, message) = run(&model, &output, &options);
                assert!(matches!(code, Some(0 | 2)), "{formats:?}: {message}");
                if code == Some(2) {
                    let (code, other) = run(Path::new("absent.onnx"), &output, &options);
                    assert_eq!((code, &other), (Some(2), &message), "{formats:?}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 24, "{refused}");
    let (code, message) =
        run(Path::new("absent.onnx"), &bench.output(), &["--weights", "int8", "--scale", "m2"]);
    assert!(code == Some(2) && message.contains("--scale m2 with --weights int8"), "{message}");
    let (code, _) = run(Path::new("absent.onnx"), &bench.output(), &["--backend", "none"]);
    assert_eq!(code, Some(2));
}
