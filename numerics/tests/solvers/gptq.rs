use zqc_numerics::{Format, GptqOptions, Hessian, QuantizedMatrix, SolveError, gptq, rtn};

use crate::Random;

/// Optimal brain quantization in `f64`, without any of GPTQ's shortcuts: after each column the inverse Hessian of the
/// columns left is made by eliminating that column. Returns codes and scales.
fn reference(weight: &[f32], x: &[f32], cols: usize, options: &GptqOptions) -> (Vec<u8>, Vec<f64>) {
    let mut h = vec![vec![0.0; cols]; cols];
    for token in x.chunks_exact(cols) {
        for (row, &a) in h.iter_mut().zip(token) {
            for (h, &b) in row.iter_mut().zip(token) {
                *h += f64::from(a) * f64::from(b);
            }
        }
    }
    let mut weight: Vec<Vec<f64>> =
        weight.chunks_exact(cols).map(|row| row.iter().map(|&w| f64::from(w)).collect()).collect();
    let mean = (0..cols).map(|i| h[i][i]).sum::<f64>() / cols as f64;
    for i in 0..cols {
        if h[i][i] == 0.0 {
            h[i][i] = mean;
            weight.iter_mut().for_each(|row| row[i] = 0.0);
        }
        h[i][i] += options.damping * mean;
    }
    let mut inverse = invert(h);

    let group = if options.group_size == 0 { cols } else { options.group_size };
    let mut scales = vec![Vec::new(); weight.len()];
    let mut codes = vec![Vec::new(); weight.len()];
    for j in 0..cols {
        for ((row, scales), codes) in weight.iter_mut().zip(&mut scales).zip(&mut codes) {
            if j % group == 0 {
                let largest = row[j..cols.min(j + group)].iter().fold(0.0f64, |max, w| max.max(w.abs()));
                scales.push(if largest == 0.0 { 1.0 } else { largest / f64::from(options.format.max()) });
            }
            let scale = scales[j / group];
            let code = options.format.encode((row[j] / scale) as f32);
            let error = (row[j] - f64::from(options.format.decode(code)) * scale) / inverse[j][j];
            for (w, h) in row[j..].iter_mut().zip(&inverse[j][j..]) {
                *w -= error * h;
            }
            codes.push(code);
        }
        let eliminated = inverse[j].clone();
        for row in &mut inverse {
            let factor = row[j] / eliminated[j];
            for (value, pivot) in row.iter_mut().zip(&eliminated) {
                *value -= factor * pivot;
            }
        }
    }
    (codes.concat(), scales.concat())
}

/// Gauss-Jordan inversion of a positive definite matrix.
fn invert(mut a: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = a.len();
    for (i, row) in a.iter_mut().enumerate() {
        row.extend((0..n).map(|j| f64::from(i == j)));
    }
    for i in 0..n {
        let pivot = a[i][i];
        a[i].iter_mut().for_each(|value| *value /= pivot);
        let pivot_row = a[i].clone();
        for (_, row) in a.iter_mut().enumerate().filter(|&(j, _)| j != i) {
            let factor = row[i];
            for (value, pivot) in row.iter_mut().zip(&pivot_row) {
                *value -= factor * pivot;
            }
        }
    }
    a.into_iter().map(|row| row[n..].to_vec()).collect()
}

fn hessian_of(x: &[f32], cols: usize) -> Hessian {
    let mut hessian = Hessian::new(cols);
    hessian.accumulate(x);
    hessian
}

/// Features 1 and 5 of every token become zero.
fn kill_features(x: &mut [f32], cols: usize) {
    for token in x.chunks_exact_mut(cols).filter(|_| cols > 5) {
        token[1] = 0.0;
        token[5] = 0.0;
    }
}

#[test]
fn agrees_with_the_reference() {
    let mut random = Random(5);
    let shapes = [(8, 64, 16, 128), (3, 172, 128, 128), (5, 96, 96, 32), (4, 200, 96, 128), (4, 60, 12, 30)];
    let corners =
        [(1, 40, 0, 16), (130, 20, 8, 8), (2, 30, 64, 7), (6, 1, 128, 128), (1, 1, 1, 1), (3, 50, 7, 1)];
    for (rows, cols, group_size, block_size) in shapes.into_iter().chain(corners) {
        let weight = random.normal(rows * cols);
        let mut x = random.activations(2 * cols + 3, cols);
        kill_features(&mut x, cols);
        for format in [Format::E2M1, Format::E3M0, Format::Int4, Format::E4M3] {
            let options = GptqOptions { format, group_size, block_size, damping: 0.01 };
            let solved = gptq(&weight, rows, cols, &hessian_of(&x, cols), &options).unwrap();
            let (codes, scales) = reference(&weight, &x, cols, &options);
            let case = format!("{format} {rows}x{cols} group {group_size} block {block_size}");
            assert_eq!(solved.damping, 0.01, "{case}");
            assert_eq!(values(&solved.matrix.codes, format), values(&codes, format), "{case}");
            for (ours, theirs) in solved.matrix.scales.iter().zip(&scales) {
                assert!((f64::from(*ours) / theirs - 1.0).abs() < 1e-4, "{case}: scale {ours}, not {theirs}");
            }
            assert_eq!(solved.matrix.scales.len(), scales.len(), "{case}");
        }
    }
}

/// Codes as values, which tells no zero from its negative: their sign is that of a rounding error.
fn values(codes: &[u8], format: Format) -> Vec<f32> {
    codes.iter().map(|&code| format.decode(code)).collect()
}

#[test]
fn output_error_is_below_that_of_rounding() {
    let (rows, cols, mut random) = (48, 320, Random(6));
    let (weight, x) = (random.normal(rows * cols), random.activations(1000, cols));
    let hessian = hessian_of(&x, cols);
    for group_size in [0, 32, 128] {
        let options = GptqOptions { group_size, ..GptqOptions::default() };
        let solved = gptq(&weight, rows, cols, &hessian, &options).unwrap();
        let rounded = rtn(&weight, rows, cols, options.format, group_size).unwrap();
        let relative = |matrix: &QuantizedMatrix| {
            let residual: Vec<f32> = weight.iter().zip(matrix.dequantize()).map(|(w, q)| w - q).collect();
            hessian.output_energy(&residual) / hessian.output_energy(&weight)
        };
        assert!((solved.output_error / relative(&solved.matrix) - 1.0).abs() < 1e-6);
        assert!(solved.output_error < 0.8 * relative(&rounded), "group size {group_size}");
    }
}

#[test]
fn dead_features_get_weight_zero() {
    let (rows, cols, mut random) = (4, 40, Random(7));
    let (weight, mut x) = (random.normal(rows * cols), random.activations(100, cols));
    kill_features(&mut x, cols);
    let solved = gptq(&weight, rows, cols, &hessian_of(&x, cols), &GptqOptions::default()).unwrap();
    for row in solved.matrix.dequantize().chunks(cols) {
        assert_eq!([row[1], row[5]], [0.0, 0.0]);
    }
}

#[test]
fn the_scale_of_the_hessian_does_not_matter() {
    let (rows, cols, mut random) = (4, 64, Random(8));
    let (weight, x) = (random.normal(rows * cols), random.activations(200, cols));
    let solve = |factor: f32| {
        let x: Vec<f32> = x.iter().map(|value| value * factor).collect();
        gptq(&weight, rows, cols, &hessian_of(&x, cols), &GptqOptions::default()).unwrap().matrix
    };
    let solved = solve(1.0);
    assert_eq!(solve(2f32.powi(40)), solved);
    assert_eq!(solve(2f32.powi(-40)), solved);
}

#[test]
fn a_singular_hessian_is_damped_until_it_can_be_factored() {
    let weight = [0.3, -0.7, 1.0];
    // One token, and no damping asked for: H is all ones.
    let options = GptqOptions { damping: 0.0, ..GptqOptions::default() };
    let solved = gptq(&weight, 1, 3, &hessian_of(&[1.0; 3], 3), &options).unwrap();
    assert_eq!(solved.damping, 1e-4);
}

#[test]
fn refuses_bad_input() {
    let mut random = Random(10);
    let (weight, x) = (random.normal(12), random.activations(20, 4));
    let hessian = hessian_of(&x, 4);
    let default = GptqOptions::default();
    let error =
        |weight: &[f32], hessian: &Hessian, options| gptq(weight, 3, 4, hessian, &options).unwrap_err();

    let mut broken = weight.clone();
    broken[6] = f32::NAN;
    assert!(matches!(error(&broken, &hessian, default), SolveError::NonFiniteWeight { row: 1, col: 2, .. }));
    assert!(matches!(
        error(&weight[1..], &hessian, default),
        SolveError::Length { expected: 12, actual: 11, .. }
    ));
    assert_eq!(error(&weight, &Hessian::new(4), default), SolveError::NoTokens);
    assert_eq!(error(&weight, &hessian_of(&[0.0; 8], 4), default), SolveError::NoTokens);
    let other = SolveError::HessianSize { hessian: 5, weight: 4 };
    assert_eq!(error(&weight, &Hessian::new(5), default), other);
    for value in [f32::NAN, f32::INFINITY, 1e30] {
        let hessian = hessian_of(&[value, 1.0, 1.0, 1.0], 4);
        assert_eq!(error(&weight, &hessian, default), SolveError::NonFiniteHessian);
    }
    for damping in [-0.1, f64::INFINITY] {
        assert_eq!(
            error(&weight, &hessian, GptqOptions { damping, ..default }),
            SolveError::Damping(damping)
        );
    }
    assert_eq!(error(&weight, &hessian, GptqOptions { block_size: 0, ..default }), SolveError::BlockSize);

    // The first weight is rounded down by 4.5e37, which the second, as correlated as can be, has to make up for.
    let equal = hessian_of(&[1.0; 2], 2);
    let overflow = gptq(&[2.72e38, 3.4e38], 1, 2, &equal, &default).unwrap_err();
    assert_eq!(overflow, SolveError::Overflow);
}
