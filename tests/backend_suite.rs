//! ONNX's own backend test suite, with nothing to quantize: every model comes out as it went in.

mod support;

use support::{python, script};

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn every_model_comes_out_as_it_went_in() {
    assert_kept(&[]);
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn every_model_comes_out_of_its_text_as_it_went_in() {
    assert_kept(&["--text"]);
}

fn assert_kept(options: &[&str]) {
    let python = python();
    let arguments = [env!("CARGO_BIN_EXE_zqc")].into_iter().chain(options.iter().copied());
    let printed = script(&python, "backend_suite.py", arguments);
    let result: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let count = |kind: &str| result[kind].as_array().unwrap().len();
    let models = result["models"].as_u64().unwrap();
    println!(
        "{models} models: {} lost, {} changed, {} panics",
        count("lost"),
        count("changed"),
        count("panics")
    );
    assert!(models > 2000, "{printed}");
    assert_eq!([count("lost"), count("changed"), count("panics")], [0, 0, 0], "{printed}");
}
