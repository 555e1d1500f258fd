//! The compiler of `examples/deployment_compiler.rs`, whose bundle is read again.

#[path = "../examples/deployment_compiler.rs"]
#[allow(dead_code)] // its `main`
mod deployment_compiler;
mod support;

use serde_json::Value;

#[test]
fn a_bundle_has_the_codes_of_every_layer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.bundle");
    let source = std::fs::read(support::tiny("model.onnx")).unwrap();
    let report = deployment_compiler::compile(source, &path).unwrap();
    assert_eq!(report.calibration, "4 samples in memory");
    assert!(report.layers.iter().all(|layer| layer.output_error.is_some()), "not solved on the samples");

    let bytes = std::fs::read(&path).unwrap();
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let (header, payload) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Value = serde_json::from_slice(header).unwrap();
    assert_eq!(report.layers.len(), 35, "all but the head, as the target holds no table");
    assert_eq!(header.as_object().unwrap().len(), report.layers.len());
    let mut end = 0;
    for layer in &report.layers {
        let entry = &header[&layer.layer];
        assert_eq!((entry["n"].as_u64(), entry["k"].as_u64()), (Some(layer.n as u64), Some(layer.k as u64)));
        let sizes =
            ["codes", "row_scales", "group_shifts", "low_rank_down", "low_rank_up", "low_rank_scales"].map(
                |operand| {
                    let range = [0, 1].map(|at| entry["operands"][operand][at].as_u64().unwrap());
                    end = end.max(range[1]);
                    (range[1] - range[0]) as usize
                },
            );
        let (n, k, rank) = (layer.n, layer.k, 8);
        assert_eq!(sizes, [n * k.div_ceil(2), 4 * n, n * k.div_ceil(64), rank * k, n * rank, 4 * rank]);
    }
    assert_eq!(end as usize, payload.len());
}
