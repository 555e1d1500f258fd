use zqc_formats::FormatError;
use zqc_solvers::{Correction, CrossMoment, Hessian, SolveError};

use crate::{Random, hessian_of};

#[test]
fn solves_the_damped_normal_equations() {
    let (tokens, k, n, mut random) = (300, 70, 130, Random(50));
    let (x, y) = (random.activations(tokens, k), random.normal(tokens * n));
    let weight = random.normal(n * k);
    let hessian = hessian_of(&x, k);
    let mut lack = CrossMoment::new(k, n);
    let (early, late) = (&x[..100 * k], &x[100 * k..]);
    lack.accumulate(early, &y[..100 * n]);
    lack.accumulate(late, &y[100 * n..]);
    let corrected = Correction::new(&hessian).unwrap().apply(&weight, n, &lack, 0.5).unwrap();

    // With D twice the step, (H + 0.1 h I) Dᵀ = Xᵀ Y.
    let at = |i: usize, j: usize| x.chunks(k).map(|x| f64::from(x[i]) * f64::from(x[j])).sum::<f64>();
    let h: Vec<Vec<f64>> = (0..k).map(|i| (0..k).map(|j| at(i, j)).collect()).collect();
    let mean = (0..k).map(|i| h[i][i]).sum::<f64>() / k as f64;
    for output in [0, 1, 77, n - 1] {
        let row = |w: &[f32]| -> Vec<f64> { w[output * k..][..k].iter().map(|&w| f64::from(w)).collect() };
        let step: Vec<f64> = row(&corrected).iter().zip(row(&weight)).map(|(c, w)| 2.0 * (c - w)).collect();
        for i in 0..k {
            let left: f64 = (0..k).map(|j| h[i][j] * step[j]).sum::<f64>() + 0.1 * mean * step[i];
            let right: f64 =
                x.chunks(k).zip(y.chunks(n)).map(|(x, y)| f64::from(x[i]) * f64::from(y[output])).sum();
            assert!((left - right).abs() < 1e-3 * mean, "({output}, {i}): {left}, not {right}");
        }
    }
}

#[test]
fn a_layer_that_lacks_nothing_stays() {
    let (k, n, mut random) = (16, 3, Random(51));
    let (x, weight) = (random.activations(40, k), random.normal(n * k));
    let correction = Correction::new(&hessian_of(&x, k)).unwrap();
    assert_eq!(correction.apply(&weight, n, &CrossMoment::new(k, n), 1.0).unwrap(), weight);
    assert!(matches!(
        correction.apply(&weight[1..], n, &CrossMoment::new(k, n), 1.0),
        Err(SolveError::Format(FormatError::Length { .. }))
    ));
    assert!(matches!(Correction::new(&Hessian::new(k)).err(), Some(SolveError::NoTokens)));
}
