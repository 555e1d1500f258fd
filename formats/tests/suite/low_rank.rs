use zqc_formats::FormatError;
use zqc_formats::{FactorFormat, Factors, Format, LowRank};

use crate::Random;

/// `up down` in `f64`.
fn exact(up: &[f32], down: &[f32], [rows, rank, cols]: [usize; 3]) -> Vec<f64> {
    let at = |row: usize, col: usize| {
        (0..rank).map(|r| f64::from(up[row * rank + r]) * f64::from(down[r * cols + col])).sum()
    };
    (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))).map(|(row, col)| at(row, col)).collect()
}

#[test]
fn the_product_is_that_of_the_factors() {
    let mut random = Random(20);
    for shape @ [rows, rank, cols] in [[7, 3, 5], [1, 1, 1], [130, 8, 70]] {
        let (up, mut down) = (random.normal(rows * rank), random.normal(rank * cols));
        // Components of very different size.
        down.chunks_mut(cols)
            .enumerate()
            .for_each(|(r, row)| row.iter_mut().for_each(|v| *v *= 0.01f32.powi(r as i32)));
        let expected = exact(&up, &down, shape);
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        for (format, bound) in [(FactorFormat::E4M3, 0.06), (FactorFormat::Bf16, 0.004)] {
            let low_rank = LowRank::from_factors(&up, &down, shape, format).unwrap();
            low_rank.check().unwrap();
            assert_eq!(low_rank.format(), format);
            let dense = low_rank.dense();
            let error = norm(&mut dense.iter().zip(&expected).map(|(&ours, exact)| f64::from(ours) - exact));
            let size = norm(&mut expected.iter().copied());
            assert!(error < bound * size, "{shape:?} {format:?}: {}", error / size);

            let tokens = 4;
            let x = random.normal(tokens * cols);
            let mut y = vec![1.0; tokens * rows];
            low_rank.add_product(&x, &mut y, tokens);
            for (token, y) in x.chunks(cols).zip(y.chunks(rows)) {
                for (row, y) in dense.chunks(cols).zip(y) {
                    let product: f64 =
                        token.iter().zip(row).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                    assert!((f64::from(*y) - 1.0 - product).abs() < 1e-4, "{y}, not {}", 1.0 + product);
                }
            }
        }
    }
}

#[test]
fn components_fill_the_range_of_e4m3() {
    let (up, down) = ([1e-3, 0.0, -2e-3, 0.0], [5e4, -1e5, 3.0, 0.0, 0.0, 0.0]);
    let low_rank = LowRank::from_factors(&up, &down, [2, 2, 3], FactorFormat::E4M3).unwrap();
    let code = |value| Format::E4M3.encode(value);
    let (expected_up, expected_down) =
        ([224.0, 0.0, -448.0, 0.0], [224.0, -448.0, 0.013671875, 0.0, 0.0, 0.0]);
    let factors =
        Factors::E4M3 { up: expected_up.map(code).to_vec(), down: expected_down.map(code).to_vec() };
    assert_eq!(low_rank.factors, factors);
    assert_eq!((low_rank.up(), low_rank.down()), (expected_up.to_vec(), expected_down.to_vec()));
    assert!((low_rank.scales[0] / (2e-3 * 1e5 / 448.0 / 448.0) - 1.0).abs() < 1e-6);
    assert_eq!(low_rank.scales[1], 1.0, "a component of zeros");
}

#[test]
fn bits_count_factors_and_scales() {
    let bits = |format| LowRank::from_factors(&[1.0; 8], &[1.0; 10], [4, 2, 5], format).unwrap();
    assert_eq!(bits(FactorFormat::E4M3).bits(), 2 * (9 * 8 + 32));
    assert_eq!(bits(FactorFormat::Bf16).bits(), 2 * (9 * 16 + 32));
    assert_eq!(bits(FactorFormat::Bf16).bits_per_weight(), 352.0 / 20.0);
}

#[test]
fn what_is_no_pair_of_factors_is_refused() {
    let error = |up: &[f32], down: &[f32], shape| {
        LowRank::from_factors(up, down, shape, FactorFormat::E4M3).unwrap_err()
    };
    assert_eq!(error(&[], &[], [3, 0, 3]), FormatError::Empty { rows: 3, cols: 0 });
    assert_eq!(error(&[], &[1.0], [0, 1, 1]), FormatError::Empty { rows: 0, cols: 1 });
    let length = FormatError::Length { what: "the down factor", expected: 3, actual: 2 };
    assert_eq!(error(&[1.0; 2], &[1.0; 2], [2, 1, 3]), length);
    assert_eq!(error(&[1.0, f32::NAN], &[1.0; 2], [2, 1, 2]), FormatError::Overflow);
    assert_eq!(error(&[1e30; 2], &[1e30; 2], [2, 1, 2]), FormatError::Overflow);
    let low_rank = LowRank::from_factors(&[1.0; 2], &[1.0; 3], [2, 1, 3], FactorFormat::Bf16).unwrap();
    let length = FormatError::Length { what: "the scales of the low-rank factors", expected: 1, actual: 2 };
    assert_eq!(LowRank { scales: vec![1.0; 2], ..low_rank }.check(), Err(length));
}
