use zqc_numerics::matmul;

use crate::Random;

#[test]
fn matmul_agrees_with_the_definition() {
    let mut random = Random(1);
    for (t, k, n) in [(1, 1, 1), (3, 5, 2), (300, 33, 17), (257, 64, 130), (2, 0, 3), (2, 3, 0), (0, 3, 2)] {
        let (x, w) = (random.normal(t * k), random.normal(n * k));
        let mut out = vec![f32::NAN; t * n];
        matmul(&x, &w, &mut out, t, k, n);
        for (i, &value) in out.iter().enumerate() {
            let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
            let expected: f64 = x.iter().zip(w).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            assert!(
                (f64::from(value) - expected).abs() < 1e-4,
                "[{t}, {k}, {n}] at {i}: {value}, not {expected}"
            );
        }
    }
}
