use zqc_formats::{FactorFormat, LowRank};
use zqc_solvers::{Hessian, Metric, SolveError, lorc};

use crate::{Random, hessian_of};

/// `|E - UV|²` in the metric of `hessian`, or of the weights.
fn remaining(error: &[f32], branch: &LowRank, hessian: Option<&Hessian>) -> f64 {
    let residual: Vec<f32> = error.iter().zip(branch.dense()).map(|(e, b)| e - b).collect();
    match hessian {
        Some(hessian) => hessian.output_energy(&residual),
        None => residual.iter().map(|&r| f64::from(r).powi(2)).sum(),
    }
}

/// A matrix of rank 5 with the singular values 16, 8, 4, 2, 1, and what no more than `rank` of them leave of its energy.
fn of_known_rank(rows: usize, cols: usize, random: &mut Random) -> (Vec<f32>, impl Fn(usize) -> f64) {
    let orthonormal = |len: usize, random: &mut Random| {
        let mut basis: Vec<Vec<f64>> = Vec::new();
        for _ in 0..5 {
            let mut row: Vec<f64> = random.normal(len).iter().map(|&v| f64::from(v)).collect();
            for earlier in &basis {
                let share: f64 = row.iter().zip(earlier).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(earlier).for_each(|(value, e)| *value -= share * e);
            }
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            basis.push(row.into_iter().map(|v| v / norm).collect());
        }
        basis
    };
    let (up, down) = (orthonormal(rows, random), orthonormal(cols, random));
    let value = |row: usize, col: usize| {
        (0..5).map(|r| 16.0 / 2f64.powi(r as i32) * up[r][row] * down[r][col]).sum::<f64>()
    };
    let matrix = (0..rows * cols).map(|at| value(at / cols, at % cols) as f32).collect();
    (matrix, |rank| (rank..5).map(|r| 4f64.powi(4 - r as i32)).sum())
}

#[test]
fn plain_is_the_truncated_decomposition() {
    let mut random = Random(40);
    for (rows, cols) in [(90, 60), (20, 300)] {
        let (error, left) = of_known_rank(rows, cols, &mut random);
        for rank in 1..5 {
            let branch = lorc(&error, rows, cols, rank, &Metric::plain(), FactorFormat::Bf16).unwrap();
            let ratio = remaining(&error, &branch, None) / left(rank);
            assert!((1.0 - 1e-3..1.03).contains(&ratio), "{rows}x{cols}, rank {rank}: {ratio}");
        }
    }
}

#[test]
fn the_activation_metric_repairs_more_of_the_output() {
    let (rows, cols, mut random) = (100, 80, Random(41));
    let (error, x) = (random.normal(rows * cols), random.activations(500, cols));
    let hessian = hessian_of(&x, cols);
    let solve = |metric: &Metric, rank| lorc(&error, rows, cols, rank, metric, FactorFormat::Bf16).unwrap();
    let mut last = hessian.output_energy(&error);
    for rank in [4, 16, 64] {
        let (plain, aware) = (solve(&Metric::plain(), rank), solve(&Metric::activation(&hessian), rank));
        let energy = remaining(&error, &aware, Some(&hessian));
        assert!(energy < remaining(&error, &plain, Some(&hessian)) && energy < last, "rank {rank}");
        assert!(remaining(&error, &plain, None) < remaining(&error, &aware, None), "rank {rank}");
        last = energy;
    }
}

#[test]
fn factors_in_8_bits_lose_little() {
    let (rows, cols, mut random) = (64, 64, Random(42));
    let (error, _) = of_known_rank(rows, cols, &mut random);
    let energy = |format| {
        let branch = lorc(&error, rows, cols, 5, &Metric::plain(), format).unwrap();
        remaining(&error, &branch, None) / error.iter().map(|&e| f64::from(e).powi(2)).sum::<f64>()
    };
    assert!(energy(FactorFormat::Bf16) < 2e-5);
    assert!(energy(FactorFormat::E4M3) < 2e-3);
}

#[test]
fn a_rank_beyond_the_shape_is_cut() {
    let mut random = Random(43);
    let error = random.normal(3 * 7);
    let branch = lorc(&error, 3, 7, 8, &Metric::plain(), FactorFormat::Bf16).unwrap();
    assert_eq!(branch.rank, 3);
    assert!(remaining(&error, &branch, None) < 1e-4);
    let nothing =
        lorc(&[0.0; 21], 3, 7, 2, &Metric::activation(&Hessian::new(7)), FactorFormat::E4M3).unwrap();
    assert_eq!(nothing.dense(), [0.0; 21]);
    let broken = lorc(&[f32::NAN; 21], 3, 7, 2, &Metric::plain(), FactorFormat::E4M3).unwrap_err();
    assert!(matches!(broken, SolveError::NonFiniteWeight { .. }));
}
