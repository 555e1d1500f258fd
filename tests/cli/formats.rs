//! Every number format that can be asked for, as `zqc inspect` shows it in what was written.

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::models::{npz, one_layer, one_layer_with};
use crate::support::zqc_ok;

/// The layer of [`one_layer`], 64 x 32, compiled with these options.
fn layer(options: &[&str]) -> Value {
    let bench = Bench::new();
    let data = bench.write("data.npz", npz(&[("x", [3, 64]), ("shift", [3, 32])]));
    let calibration = ["--calibration", data.to_str().unwrap()];
    bench.compile(&bench.model(&one_layer()), &bench.output(), &[&calibration, options].concat());
    let output = bench.output();
    let inspection = zqc_ok(["inspect".as_ref(), output.as_os_str(), "--json".as_ref()]);
    let inspection: Value = serde_json::from_str(&inspection).unwrap();
    inspection["linears"][0].clone()
}

/// Of a row of 64 weights in groups of 24, the last one short.
const GROUPS: f64 = 3.0 / 64.0;

#[test]
fn every_format_of_the_weights() {
    let row = 32.0 / 64.0;
    for method in ["rtn", "gptq"] {
        for (weights, format, scales, zero_points, bits) in [
            ("fp4", "e2m1", "m3", false, 4.0 + row + 4.0 * GROUPS),
            ("lut4", "lut4", "m8", false, 4.0 + row + 4.0 * GROUPS),
            ("e3m0", "e3m0", "grouped", false, 4.0 + 32.0 * GROUPS),
            ("fp8", "e4m3", "grouped", false, 8.0 + 32.0 * GROUPS),
            ("int8", "int8", "grouped", false, 8.0 + 32.0 * GROUPS),
            ("int4", "int4", "grouped", true, 4.0 + (32.0 + 8.0) * GROUPS),
            ("int4-sym", "int4", "grouped", false, 4.0 + 32.0 * GROUPS),
        ] {
            let options =
                ["--weights", weights, "--method", method, "--group-size", "24", "--lorc-rank", "0"];
            let layer = layer(&options);
            let expected = json!({
                "layer": "proj",
                "k": 64,
                "n": 32,
                "format": format,
                "group_size": 24,
                "scales": scales,
                "zero_points": zero_points,
                "rank": 0,
                "activations": "e4m3",
                "bits_per_weight": bits,
                "bias": false,
            });
            assert_eq!(layer, expected, "{weights} by {method}");
        }
    }
}

/// A table without 0 is none for a weight that pruning left half empty.
#[test]
fn a_weight_of_zeros_keeps_e2m1_and_is_named() {
    for (zeros, format, scales) in [(2, "e2m1", "m3"), (8, "lut4", "m8")] {
        let model = one_layer_with(|graph| {
            let values = graph.initializer[0].raw_data.as_ref().unwrap().chunks(4).enumerate();
            let pruned = values.map(|(at, value)| if at % zeros == 0 { &[0; 4] } else { value });
            graph.initializer[0].raw_data = Some(pruned.collect::<Vec<_>>().concat().into());
        });
        let bench = Bench::new();
        let data = bench.write("data.npz", npz(&[("x", [300, 64]), ("shift", [300, 32])]));
        for calibration in [&["--calibration", data.to_str().unwrap()][..], &["--method", "rtn"]] {
            let report = bench.path("report.json");
            let options =
                [&["--weights", "lut4", "--report", report.to_str().unwrap()], calibration].concat();
            let (_, message) = bench.compile(&bench.model(&model), &bench.output(), &options);
            let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
            let layer = &report["layers"][0];
            assert_eq!(layer["format"], format, "{options:?}");
            let recoded = report["recoded"].as_array().unwrap();
            assert_eq!(recoded.len(), usize::from(format == "e2m1"), "{options:?}");
            let warning = "another format of weights: proj (of the first: 50 % of its weights are 0, which lut4 does not have: e2m1)";
            assert_eq!(message.contains(warning), format == "e2m1", "{message}");
            let output = bench.output();
            let inspection = zqc_ok(["inspect".as_ref(), output.as_os_str(), "--json".as_ref()]);
            let inspection: Value = serde_json::from_str(&inspection).unwrap();
            assert_eq!(inspection["linears"][0]["scales"], scales, "{options:?}");
        }
    }
}

#[test]
fn every_format_of_the_activations() {
    for (activations, expected) in
        [("fp8", json!("e4m3")), ("e5m2", json!("e5m2")), ("int8", json!("int8")), ("none", Value::Null)]
    {
        assert_eq!(layer(&["--activations", activations])["activations"], expected);
    }
}

#[test]
fn a_low_rank_branch_counts() {
    let with = |options: &[&str]| layer(&[&["--weights", "int8"], options].concat());
    let (e4m3, bf16) = (with(&["--lorc-rank", "3"]), with(&["--lorc-rank", "3", "--lorc-factors", "bf16"]));
    assert_eq!((&e4m3["rank"], &bf16["rank"]), (&json!(3), &json!(3)));
    let bits = |factor: f64| 8.0 + 32.0 / 64.0 + 3.0 * (factor * 96.0 + 32.0) / (64.0 * 32.0);
    assert_eq!((&e4m3["bits_per_weight"], &bf16["bits_per_weight"]), (&json!(bits(8.0)), &json!(bits(16.0))));
}
