use zqc_numerics::{Hessian, matmul};

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
