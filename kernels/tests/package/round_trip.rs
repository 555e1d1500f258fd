//! What is written can be read back, for every shape.

use half::bf16;
use proptest::prelude::*;
use zqc_formats::{Factors, Format, Ladder, Scales};
use zqc_kernels::{LayerParts, Package};

use crate::parts::{Random, Shape, layer, package};

fn shapes() -> impl Strategy<Value = Shape> {
    let kinds = prop_oneof![
        Just((Format::E2M1, Some(Ladder::M3))),
        Just((Format::E2M1, Some(Ladder::M2))),
        Just((Format::E3M0, Some(Ladder::M2))),
        Just((Format::E2M1, None)),
        Just((Format::E3M0, None)),
    ];
    let rows = prop_oneof![Just(8usize), Just(64), Just(128), 1usize..300];
    let columns = prop_oneof![Just(72usize), Just(128), Just(256), 1usize..600];
    let groups = prop_oneof![Just(32usize), Just(64), Just(128), Just(256), Just(0)];
    let ranks = prop_oneof![Just(0usize), Just(8), Just(16), Just(40), 1usize..70];
    (kinds, rows, columns, groups, ranks, any::<bool>()).prop_map(
        |((format, ladder), n, k, group_size, rank, bias)| {
            let group_size = if ladder.is_none() { 0 } else { group_size };
            Shape { n, k, format, ladder, group_size, rank, bias }
        },
    )
}

/// The outer factor as a kernel multiplies it: with the scale of its component, without that of its row.
fn expected_up(parts: &LayerParts, row_scales: &[f32]) -> Vec<bf16> {
    let Some(branch) = &parts.low_rank else { return Vec::new() };
    let padded = branch.rank.next_multiple_of(16);
    let up = branch.up();
    let value = |at: usize| match (at / padded, at % padded) {
        (row, rank) if rank < branch.rank => {
            let product = f64::from(up[row * branch.rank + rank]) * f64::from(branch.scales[rank]);
            bf16::from_f64(product / f64::from(row_scales[row]))
        }
        _ => bf16::ZERO,
    };
    (0..branch.rows * padded).map(value).collect()
}

fn compare(package: &Package, parts: &LayerParts) {
    let unpacked = package.unpack(&parts.name).unwrap();
    let matrix = &parts.matrix;
    assert_eq!(unpacked.codes, matrix.codes);
    let (ladder, rows, steps) = match &matrix.scales {
        Scales::Shifted { ladder, rows, shifts } => (*ladder, rows, shifts.clone()),
        Scales::Grouped(rows) => (Ladder::M2, rows, vec![0; matrix.rows]),
    };
    assert_eq!(unpacked.steps, steps);
    let unit = 2.0f32.powi(ladder.e4m3_exponent(matrix.format).unwrap());
    let row_scales: Vec<f32> = rows.iter().map(|scale| scale / unit).collect();
    assert_eq!(unpacked.row_scales, row_scales);
    assert_eq!(unpacked.bias, parts.bias);
    assert_eq!(unpacked.up, expected_up(parts, &row_scales));
    let mut down = match parts.low_rank.as_ref().map(|branch| &branch.factors) {
        Some(Factors::E4M3 { down, .. }) => down.clone(),
        _ => Vec::new(),
    };
    let rank = parts.low_rank.as_ref().map_or(0, |branch| branch.rank);
    down.resize(rank.next_multiple_of(16) * matrix.cols, 0);
    assert_eq!(unpacked.down, down);
    for (packed, expected) in unpacked.weight().into_iter().zip(matrix.dequantize()) {
        assert!((packed - expected).abs() <= 1e-6 * expected.abs(), "{packed} for {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn layers_come_back_as_they_were(
        activations in prop::collection::vec(prop::collection::vec(shapes(), 1..4), 1..3),
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let mut names = (0..).map(|at| format!("layer {at}"));
        let mut build = |shape: Shape, k| layer(&names.next().unwrap(), Shape { k, ..shape }, &mut random);
        let layers: Vec<Vec<LayerParts>> = activations
            .iter()
            .map(|shapes| shapes.iter().map(|&shape| build(shape, shapes[0].k)).collect())
            .collect();
        let package = package(&layers);
        prop_assert_eq!(package.layers().count(), layers.iter().map(Vec::len).sum::<usize>());
        layers.iter().flatten().for_each(|parts| compare(&package, parts));
    }
}
