use zqc_formats::{Format, FormatError, QuantizedMatrix};
use zqc_solvers::{
    Gptq, GptqOptions, Grouping, Hessian, Order, ScaleConstraint, ScaleSearch, Snap, SolveError, rtn,
};

use crate::{Random, free, hessian_of, scale, weight_formats};

fn gptq(
    weight: &[f32],
    rows: usize,
    hessian: &Hessian,
    options: &GptqOptions,
) -> Result<QuantizedMatrix, SolveError> {
    Gptq::new(hessian, *options)?.solve(weight, rows)
}

/// What optimal brain quantization knows of a layer's input, in `f64` and without any of GPTQ's shortcuts.
struct Elimination {
    /// The columns in the order they are quantized in.
    permutation: Vec<usize>,
    /// At each position, that row of the inverse Hessian of the columns left, made by eliminating one column after the
    /// other.
    rows: Vec<Vec<f64>>,
    /// The Hessian's diagonal, in natural order.
    diagonal: Vec<f64>,
}

impl Elimination {
    fn new(x: &[f32], cols: usize, order: Order, damping: f64) -> Self {
        let dot = |i: usize, j: usize| -> f64 {
            x.chunks_exact(cols).map(|token| f64::from(token[i]) * f64::from(token[j])).sum()
        };
        let diagonal: Vec<f64> = (0..cols).map(|i| dot(i, i)).collect();
        let mut permutation: Vec<usize> = (0..cols).collect();
        if order == Order::Activation {
            permutation.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]).then(a.cmp(&b)));
        }
        let mut h: Vec<Vec<f64>> =
            permutation.iter().map(|&i| permutation.iter().map(|&j| dot(i, j)).collect()).collect();
        let mean = diagonal.iter().sum::<f64>() / cols as f64;
        for (i, row) in h.iter_mut().enumerate() {
            row[i] = if row[i] == 0.0 { mean } else { row[i] } + damping * mean;
        }
        let mut inverse = invert(h);
        let eliminate = |at: usize| {
            let eliminated = inverse[at].clone();
            for row in &mut inverse {
                let factor = row[at] / eliminated[at];
                row.iter_mut().zip(&eliminated).for_each(|(value, pivot)| *value -= factor * pivot);
            }
            eliminated
        };
        let rows = (0..cols).map(eliminate).collect();
        Self { permutation, rows, diagonal }
    }

    /// Codes of one row of weights, scales and zero points of its groups.
    fn solve(&self, weight: &[f32], options: &GptqOptions) -> (Vec<u8>, Vec<(f64, f64)>) {
        let &GptqOptions { order, grouping: Grouping { format, group_size, scale_search, .. }, .. } = options;
        let cols = weight.len();
        let group_size = if group_size == 0 { cols } else { group_size };
        let importance = match scale_search {
            ScaleSearch::Hessian => {
                let mean = self.diagonal.iter().sum::<f64>() / cols as f64;
                self.diagonal.iter().map(|&h| if h == 0.0 { mean } else { h }).collect()
            }
            ScaleSearch::Max | ScaleSearch::Mse => vec![1.0; cols],
        };
        let mut weight: Vec<f64> = weight.iter().map(|&w| f64::from(w)).collect();
        let group_scale = |weight: &[f64], group: usize| {
            let members = group * group_size..cols.min((group + 1) * group_size);
            scale(format, scale_search, &weight[members.clone()], &importance[members])
        };
        let mut scales: Vec<(f64, f64)> =
            (0..cols.div_ceil(group_size)).map(|g| group_scale(&weight, g)).collect();
        let mut codes = vec![0; cols];
        for (at, &col) in self.permutation.iter().enumerate() {
            let group = col / group_size;
            if order == Order::Natural && col % group_size == 0 {
                scales[group] = group_scale(&weight, group);
            }
            codes[col] = self.round(at, &mut weight, format.format, scales[group]);
        }
        (codes, scales)
    }

    /// Rounds the weight at a position, and has those after it make up for the error.
    fn round(&self, at: usize, weight: &mut [f64], format: Format, (scale, zero): (f64, f64)) -> u8 {
        let (col, row) = (self.permutation[at], &self.rows[at]);
        let code = format.encode((weight[col] / scale + zero) as f32);
        let error = (weight[col] - (f64::from(format.decode(code)) - zero) * scale) / row[at];
        for (&later, h) in self.permutation[at..].iter().zip(&row[at..]) {
            weight[later] -= error * h;
        }
        code
    }

    /// The weights that a row becomes with given scales, one a weight.
    fn approximate(&self, weight: &[f32], format: Format, scales: &[f64]) -> Vec<f64> {
        let mut weight: Vec<f64> = weight.iter().map(|&w| f64::from(w)).collect();
        let mut rounded = vec![0.0; weight.len()];
        for (at, &col) in self.permutation.iter().enumerate() {
            let code = self.round(at, &mut weight, format, (scales[col], 0.0));
            rounded[col] = f64::from(format.decode(code)) * scales[col];
        }
        rounded
    }
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

/// Features 1 and 5 of every token become zero.
fn kill_features(x: &mut [f32], cols: usize) {
    for token in x.chunks_exact_mut(cols).filter(|_| cols > 5) {
        token[1] = 0.0;
        token[5] = 0.0;
    }
}

/// A value between two codes may fall to either side, by the last bit of a sum that depends on the processor; the row then
/// goes another way from there. All rows but such ones, of which there are none or a few in thousands, have the same codes.
#[test]
fn agrees_with_the_reference() {
    let mut random = Random(5);
    let shapes = [(8, 64, 16, 128), (3, 172, 128, 128), (5, 96, 96, 32), (4, 200, 96, 128), (4, 60, 12, 30)];
    let corners =
        [(1, 40, 0, 16), (130, 20, 8, 8), (2, 30, 64, 7), (6, 1, 128, 128), (1, 1, 1, 1), (3, 50, 7, 1)];
    let (mut all, mut astray) = (0, Vec::new());
    for (rows, cols, group_size, block_size) in shapes.into_iter().chain(corners) {
        let weight = random.normal(rows * cols);
        let mut x = random.activations(2 * cols + 3, cols);
        kill_features(&mut x, cols);
        for order in [Order::Natural, Order::Activation] {
            let elimination = Elimination::new(&x, cols, order, 0.01);
            for format in weight_formats() {
                for scale_search in [ScaleSearch::Max, ScaleSearch::Mse, ScaleSearch::Hessian] {
                    let grouping = free(format, group_size, scale_search);
                    let options = GptqOptions { grouping, order, block_size, damping: 0.01 };
                    let case = format!("{rows}x{cols}, {options:?}");
                    let solver = Gptq::new(&hessian_of(&x, cols), options).unwrap();
                    assert_eq!(solver.damping(), 0.01, "{case}");
                    let solved = solver.solve(&weight, rows).unwrap();
                    solved.check().unwrap();
                    let (groups, found) = (solved.groups(), solved.scales.of_groups());
                    assert_eq!(solved.zero_points.is_some(), format.asymmetric, "{case}");
                    for (row, weight) in weight.chunks(cols).enumerate() {
                        all += 1;
                        let (codes, scales) = elimination.solve(weight, &options);
                        let ours = &solved.codes[row * cols..][..cols];
                        if values(ours, format.format) != values(&codes, format.format) {
                            astray.push(format!("row {row} of {case}"));
                            continue;
                        }
                        for (ours, (theirs, _)) in found[row * groups..].iter().zip(&scales) {
                            let ratio = f64::from(*ours) / theirs;
                            assert!((ratio - 1.0).abs() < 1e-3, "{case}: scale {ours}, not {theirs}");
                        }
                        if let Some(zeros) = &solved.zero_points {
                            let expected: Vec<i8> = scales.iter().map(|&(_, zero)| zero as i8).collect();
                            assert_eq!(zeros[row * groups..][..groups], expected, "{case}");
                        }
                    }
                }
            }
        }
    }
    assert!(500 * astray.len() <= all, "{} of {all} rows have other codes: {astray:?}", astray.len());
}

/// Rows are solved with several choices of scales, the one of least squared error among them.
#[test]
fn a_row_keeps_the_scales_that_lose_least() {
    let (rows, cols, group_size, damping, mut random) = (40, 96, 16, 0.01, Random(15));
    let (weight, x) = (random.normal(rows * cols), random.activations(300, cols));
    let elimination = Elimination::new(&x, cols, Order::Activation, damping);
    let mean = elimination.diagonal.iter().sum::<f64>() / cols as f64;
    let loss = |weight: &[f32], rounded: &[f64]| -> f64 {
        let error: Vec<f64> = weight.iter().zip(rounded).map(|(&w, q)| f64::from(w) - q).collect();
        let output = |token: &[f32]| token.iter().zip(&error).map(|(&x, e)| f64::from(x) * e).sum::<f64>();
        x.chunks_exact(cols).map(|token| output(token).powi(2)).sum::<f64>()
            + damping * mean * error.iter().map(|e| e * e).sum::<f64>()
    };
    let constraint = ScaleConstraint::M2(Snap::Search);
    let grouping = Grouping { constraint, ..free(Format::E2M1, group_size, ScaleSearch::Mse) };
    let options = GptqOptions { grouping, damping, ..GptqOptions::default() };
    let solved = gptq(&weight, rows, &hessian_of(&x, cols), &options).unwrap().dequantize();
    let first = rtn(&weight, rows, cols, &grouping).unwrap();
    let first = first.scales.of_groups();
    let (mut better, groups) = (0, cols / group_size);
    for (row, weight) in weight.chunks(cols).enumerate() {
        let scales: Vec<f64> =
            (0..cols).map(|col| f64::from(first[row * groups + col / group_size])).collect();
        let first = loss(weight, &elimination.approximate(weight, Format::E2M1, &scales));
        let ours: Vec<f64> = solved[row * cols..][..cols].iter().map(|&w| f64::from(w)).collect();
        let ours = loss(weight, &ours);
        assert!(ours < 1.001 * first, "row {row}: {ours}, by the first choice {first}");
        better += usize::from(ours < 0.999 * first);
    }
    assert!(better > rows / 2, "{better} rows of {rows} are better by another choice");
}

#[test]
fn activation_order_is_natural_order_on_sorted_columns() {
    let (rows, cols, tokens, mut random) = (130, 150, 400, Random(13));
    let weight = random.normal(rows * cols);
    // Small integers, so that the order of summation does not matter.
    let x: Vec<f32> = random.activations(tokens, cols).iter().map(|value| value.round()).collect();
    let energy = |col: usize| x.iter().skip(col).step_by(cols).map(|value| value * value).sum::<f32>();
    let mut sorted: Vec<usize> = (0..cols).collect();
    sorted.sort_by(|&a, &b| energy(b).total_cmp(&energy(a)));
    let sort = |matrix: &[f32]| -> Vec<f32> {
        matrix.chunks(cols).flat_map(|row| sorted.iter().map(|&col| row[col])).collect()
    };

    for scale_search in [ScaleSearch::Max, ScaleSearch::Mse, ScaleSearch::Hessian] {
        let grouping = free(Format::E2M1, 0, scale_search);
        let options = GptqOptions { grouping, ..GptqOptions::default() };
        let solve = |weight: &[f32], x: &[f32], order| {
            gptq(weight, rows, &hessian_of(x, cols), &GptqOptions { order, ..options }).unwrap()
        };
        let ours = solve(&weight, &x, Order::Activation);
        let theirs = solve(&sort(&weight), &sort(&x), Order::Natural);
        assert_eq!(sort(&ours.dequantize()), theirs.dequantize(), "{scale_search:?}");
    }
}

/// Without correlations there is no error to compensate, and the output error is what the search for scales minimizes.
#[test]
fn the_search_lowers_its_own_objective() {
    let (rows, cols, mut random) = (200, 100, Random(14));
    let weight = random.normal(rows * cols);
    let mut x = vec![0.0; cols * cols];
    x.iter_mut().step_by(cols + 1).enumerate().for_each(|(i, value)| *value = 1.0 + (i * i % 17) as f32);
    let hessian = hessian_of(&x, cols);
    for order in [Order::Natural, Order::Activation] {
        let errors = [ScaleSearch::Max, ScaleSearch::Mse, ScaleSearch::Hessian].map(|scale_search| {
            let grouping = free(Format::E2M1, 32, scale_search);
            let options = GptqOptions { grouping, order, damping: 0.0, ..GptqOptions::default() };
            let solved = gptq(&weight, rows, &hessian, &options).unwrap();
            (solved.relative_error(&weight), output_error(&hessian, &solved, &weight))
        });
        let [max, mse, hessian] = errors;
        assert!(mse.0 < max.0 && mse.0 < hessian.0, "{errors:?}");
        assert!(hessian.1 < max.1 && hessian.1 < mse.1, "{errors:?}");
    }
}

/// The squared error of the output on the tokens of the Hessian, relative to its energy.
fn output_error(hessian: &Hessian, matrix: &QuantizedMatrix, weight: &[f32]) -> f64 {
    let residual: Vec<f32> = weight.iter().zip(matrix.dequantize()).map(|(w, q)| w - q).collect();
    hessian.output_energy(&residual) / hessian.output_energy(weight)
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
        let options = GptqOptions::default();
        let grouping = Grouping { group_size, ..options.grouping };
        let solved = gptq(&weight, rows, &hessian, &GptqOptions { grouping, ..options }).unwrap();
        let rounded = rtn(&weight, rows, cols, &grouping).unwrap();
        let [solved, rounded] = [solved, rounded].map(|matrix| output_error(&hessian, &matrix, &weight));
        assert!(solved < 0.8 * rounded, "group size {group_size}: {solved} and {rounded}");
    }
}

/// Features that no token has shown are rounded to nearest, in groups of their own as rounding alone would.
#[test]
fn dead_features_are_rounded_to_nearest() {
    let (rows, cols, mut random) = (4, 48, Random(7));
    let (weight, mut x) = (random.normal(rows * cols), random.activations(100, cols));
    kill_features(&mut x, cols);
    x.chunks_exact_mut(cols).for_each(|token| token[16..32].fill(0.0));
    let hessian = hessian_of(&x, cols);
    assert_eq!(hessian.dead_features(), 18);
    for order in [Order::Natural, Order::Activation] {
        let grouping = free(Format::E2M1, 16, ScaleSearch::Hessian);
        let options = GptqOptions { order, grouping, ..GptqOptions::default() };
        let solved = gptq(&weight, rows, &hessian, &options).unwrap();
        let rounded = rtn(&weight, rows, cols, &grouping).unwrap();
        let scales = solved.scales.of_groups();
        let (solved, rounded) = (solved.dequantize(), rounded.dequantize());
        for row in 0..rows {
            let at = row * cols;
            assert_eq!(solved[at + 16..at + 32], rounded[at + 16..at + 32], "{order:?}");
            for feature in [1, 5] {
                let scale = scales[3 * row];
                let nearest = Format::E2M1.decode(Format::E2M1.encode(weight[at + feature] / scale)) * scale;
                assert_eq!(solved[at + feature], nearest, "{order:?}, feature {feature}");
            }
        }
    }
}

#[test]
fn the_scale_of_the_hessian_does_not_matter() {
    let (rows, cols, mut random) = (4, 64, Random(8));
    let (weight, x) = (random.normal(rows * cols), random.activations(200, cols));
    let solve = |factor: f32| {
        let x: Vec<f32> = x.iter().map(|value| value * factor).collect();
        gptq(&weight, rows, &hessian_of(&x, cols), &GptqOptions::default()).unwrap()
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
    let solver = Gptq::new(&hessian_of(&[1.0; 3], 3), options).unwrap();
    assert_eq!(solver.damping(), 1e-4);
    solver.solve(&weight, 1).unwrap();
}

#[test]
fn refuses_bad_input() {
    let mut random = Random(10);
    let (weight, x) = (random.normal(12), random.activations(20, 4));
    let hessian = hessian_of(&x, 4);
    let default = GptqOptions::default();
    let error = |weight: &[f32], hessian: &Hessian, options| gptq(weight, 3, hessian, &options).unwrap_err();

    let mut broken = weight.clone();
    broken[6] = f32::NAN;
    assert!(matches!(error(&broken, &hessian, default), SolveError::NonFiniteWeight { row: 1, col: 2, .. }));
    assert!(matches!(
        error(&weight[1..], &hessian, default),
        SolveError::Format(FormatError::Length { expected: 12, actual: 11, .. })
    ));
    assert_eq!(error(&weight, &Hessian::new(4), default), SolveError::NoTokens);
    assert_eq!(error(&weight, &hessian_of(&[0.0; 8], 4), default), SolveError::NoTokens);
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
    let grouping = free(Format::E2M1, 0, ScaleSearch::Max);
    let overflow = gptq(&[2.72e38, 3.4e38], 1, &equal, &GptqOptions { grouping, ..default }).unwrap_err();
    assert_eq!(overflow, SolveError::Overflow);
}
