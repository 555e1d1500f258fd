//! Normalizations of sums and of embeddings.

use super::*;

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn sums_that_are_normalized() {
    let epsilon = || vec![attribute::float("epsilon", 1e-5)];
    let x = |seed| floats(&[BATCH, 3, 16], seed);
    let weight = |seed| floats(&[16], seed);
    for outputs in [&["y", "mean", "inverse", "sum"][..], &["y", "", "", "sum"]] {
        let case = || Case::new("SkipLayerNormalization", epsilon()).giving(&["y", "", "", "sum"]);
        let expected =
            case().with(x(1)).with(x(2)).with(weight(3)).with(weight(4)).with(weight(5)).run("ort", 21, &[]);
        let named = Case::new("SkipLayerNormalization", epsilon()).giving(outputs);
        let found =
            named.with(x(1)).with(x(2)).with(weight(3)).with(weight(4)).with(weight(5)).run("rten", 21, &[]);
        close(&found[0], &expected[0], "normalized");
        close(found.last().unwrap(), &expected[1], "sum");
    }
    let case = || Case::new("SkipSimplifiedLayerNormalization", epsilon());
    let expected =
        case().giving(&["y", "", "", "sum"]).with(x(1)).with(x(2)).with(weight(3)).run("ort", 21, &[]);
    let all = case().giving(&["y", "mean", "inverse", "sum"]).with(x(1)).with(x(2)).with(weight(3)).rten();
    close(&all[0], &expected[0], "normalized");
    close(&all[3], &expected[1], "sum");
}

#[test]
fn the_statistics_of_a_normalization() {
    let (x, skip) = (floats(&[1, 2, 4], 1), floats(&[1, 2, 4], 2));
    let one = Array::new(vec![4], vec![1f32; 4]).unwrap();
    for (op_type, is_centred) in
        [("SkipLayerNormalization", true), ("SkipSimplifiedLayerNormalization", false)]
    {
        let case = Case::new(op_type, vec![attribute::float("epsilon", 1e-5)])
            .giving(&["y", "mean", "inverse", "sum"]);
        let found = case.with(x.clone()).with(skip.clone()).with(one.clone()).rten();
        for (row, sum) in found[3].as_f32().unwrap().chunks_exact(4).enumerate() {
            let mean = sum.iter().sum::<f32>() / 4.0;
            let centre = if is_centred { mean } else { 0.0 };
            let variance = sum.iter().map(|x| (x - centre).powi(2)).sum::<f32>() / 4.0;
            let inverse = 1.0 / (variance + 1e-5).sqrt();
            assert!((found[1].as_f32().unwrap()[row] - mean).abs() < 1e-6);
            assert!((found[2].as_f32().unwrap()[row] - inverse).abs() < 1e-4 * inverse);
            let y = found[0].as_f32().unwrap()[4 * row];
            assert!((y - (sum[0] - centre) * inverse).abs() < 1e-5);
        }
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn embeddings_that_are_normalized() {
    let ids = |values: [i32; 6]| int32(&[BATCH, 3], &values);
    let case = || {
        Case::new("EmbedLayerNormalization", vec![attribute::float("epsilon", 1e-6)])
            .giving(&["y", "counts", "sum"])
            .with(ids([4, 0, 2, 3, 3, 1]))
    };
    let tables = |case: Case| case.with(floats(&[5, 8], 1)).with(floats(&[6, 8], 2));
    let weights = |case: Case| case.with(floats(&[8], 4)).with(floats(&[8], 5));
    weights(tables(case().with(ids([0, 1, 0, 1, 1, 0]))).with(floats(&[2, 8], 3)))
        .with(ids([1, 1, 1, 1, 1, 0]))
        .with(ids([2, 0, 1, 5, 4, 3]))
        .check();
    weights(tables(case().without()).without()).check();
}
