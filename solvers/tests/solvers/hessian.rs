use zqc_formats::matmul;
use zqc_solvers::{HeldOut, Hessian};

use crate::Random;

/// Sum of squares of `x mᵀ`, in another way than the Hessian's.
fn energy(x: &[f32], m: &[f32], k: usize) -> f64 {
    let (t, n) = (x.len() / k, m.len() / k);
    let mut out = vec![0.0; t * n];
    matmul(x, m, &mut out, t, k, n);
    out.iter().map(|&value| f64::from(value).powi(2)).sum()
}

#[test]
fn output_energy_is_that_of_the_output() {
    let mut random = Random(2);
    // Below, at and across the tile size of 256, and across the token block of 2048.
    for (t, k, n) in [(1, 1, 1), (40, 30, 5), (100, 256, 3), (2100, 300, 7), (50, 520, 2100)] {
        let (x, m) = (random.activations(t, k), random.normal(n * k));
        let mut hessian = Hessian::new(k);
        hessian.accumulate(&x);
        let (ours, expected) = (hessian.output_energy(&m), energy(&x, &m, k));
        assert!((ours / expected - 1.0).abs() < 1e-5, "[{t}, {k}, {n}]: {ours}, not {expected}");
    }
}

#[test]
fn merging_adds_the_tokens() {
    let (k, mut random) = (300, Random(3));
    let x = random.activations(70, k);
    let mut whole = Hessian::new(k);
    whole.accumulate(&x);
    let (mut first, mut second) = (Hessian::new(k), Hessian::new(k));
    first.accumulate(&x[..20 * k]);
    second.accumulate(&x[20 * k..]);
    first.merge(&second);

    assert_eq!((first.k(), first.tokens()), (k, 70));
    let m = random.normal(4 * k);
    assert!((first.output_energy(&m) / whole.output_energy(&m) - 1.0).abs() < 1e-6);
    assert!((first.mean_diagonal() / whole.mean_diagonal() - 1.0).abs() < 1e-6);
}

#[test]
fn mean_diagonal_is_the_mean_square_of_the_features() {
    let mut hessian = Hessian::new(2);
    assert_eq!(hessian.mean_diagonal(), 0.0);
    hessian.accumulate(&[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(hessian.mean_diagonal(), (1.0 + 4.0 + 9.0 + 16.0) / 2.0);
}

#[test]
fn held_out_tokens_give_the_same_energy() {
    let mut random = Random(4);
    for (t, k, n) in [(1, 1, 1), (40, 30, 5), (513, 64, 3), (1100, 7, 20)] {
        let (x, m) = (random.activations(t, k), random.normal(n * k));
        let mut held_out = HeldOut::new(k);
        x.chunks(k).for_each(|token| held_out.add(token));
        assert_eq!((held_out.tokens(), held_out.values()), (t, &x[..]));
        let (ours, expected) = (held_out.output_energy(&m), energy(&x, &m, k));
        assert!((ours / expected - 1.0).abs() < 1e-6, "[{t}, {k}, {n}]: {ours}, not {expected}");
    }
    assert_eq!(HeldOut::new(3).output_energy(&[1.0; 6]), 0.0);
}

/// The energies of `x_i + x_j` tell the correlations of a Hessian, tile by tile.
#[test]
fn correlations_shrink_as_the_definition_says() {
    for (t, k) in [(20, 6), (5, 300), (400, 9)] {
        let x = Random(5).activations(t, k);
        let mut hessian = Hessian::new(k);
        hessian.accumulate(&x);
        let dot = |i: usize, j: usize| -> f64 {
            x.chunks_exact(k).map(|token| f64::from(token[i]) * f64::from(token[j])).sum()
        };
        let moment: Vec<Vec<f64>> = (0..k).map(|i| (0..k).map(|j| dot(i, j)).collect()).collect();
        let (mut spread, mut energy) = (0.0, 0.0);
        for (i, j) in (0..k).flat_map(|i| (0..k).map(move |j| (i, j))).filter(|(i, j)| i != j) {
            let squared = moment[i][j].powi(2) / (moment[i][i] * moment[j][j]);
            spread += (1.0 - squared).powi(2) / (t - 1) as f64;
            energy += squared;
        }
        let expected = (spread / energy).min(1.0);
        let mut shrunk = hessian.clone();
        let intensity = shrunk.shrink_correlations();
        assert!((intensity - expected).abs() < 1e-4 * expected, "{intensity}, not {expected}");
        for (i, j) in [(0, 0), (0, 1), (k - 1, 0), (k - 1, k - 1), (3, 4)] {
            let pair: Vec<f32> = (0..k).map(|at| f32::from(u8::from(at == i || at == j))).collect();
            let cross = if i == j { 0.0 } else { 2.0 * (1.0 - expected) * moment[i][j] };
            let both = moment[i][i] + if i == j { 0.0 } else { moment[j][j] };
            let ours = shrunk.output_energy(&pair);
            assert!((ours - both - cross).abs() < 1e-3 * both, "({i}, {j}): {ours}, not {}", both + cross);
        }
    }
}

#[test]
fn one_token_says_nothing_of_correlations() {
    let mut hessian = Hessian::new(3);
    hessian.accumulate(&[1.0, 2.0, 0.0]);
    assert_eq!(hessian.shrink_correlations(), 1.0);
    assert_eq!(hessian.output_energy(&[1.0, 1.0, 1.0]), 5.0);
}
