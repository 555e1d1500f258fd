use zqc_formats::{matmul, transpose};

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

#[test]
fn transposing_moves_every_element() {
    for (rows, cols) in [(1, 1), (3, 200), (130, 65), (0, 4), (4, 0)] {
        let matrix: Vec<usize> = (0..rows * cols).collect();
        let expected: Vec<usize> =
            (0..cols).flat_map(|col| (0..rows).map(move |row| row * cols + col)).collect();
        assert_eq!(transpose(&matrix, rows, cols), expected, "[{rows}, {cols}]");
    }
}
