use zqc_formats::{Format, FormatError, QuantizedMatrix, WeightFormat};
use zqc_solvers::{ScaleSearch, SolveError};

use crate::{Random, free, scale, weight_formats};

/// Rounding with unconstrained scales.
fn rtn(
    weight: &[f32],
    rows: usize,
    cols: usize,
    format: WeightFormat,
    group_size: usize,
    search: ScaleSearch,
) -> Result<QuantizedMatrix, SolveError> {
    zqc_solvers::rtn(weight, rows, cols, &free(format, group_size, search))
}

#[test]
fn agrees_with_the_definition() {
    let mut random = Random(4);
    for (rows, cols, group_size) in [(3, 172, 128), (2, 64, 128), (5, 40, 0), (1, 1, 1), (4, 30, 7)] {
        let mut weight = random.normal(rows * cols);
        weight[..cols.min(7)].fill(0.0);
        for format in weight_formats() {
            let solve = |search| rtn(&weight, rows, cols, format, group_size, search).unwrap();
            for search in [ScaleSearch::Max, ScaleSearch::Mse] {
                let solved = solve(search);
                let case = format!("{format:?} {rows}x{cols}/{group_size} {search:?}");
                let group = if group_size == 0 { cols } else { group_size.min(cols) };
                assert_eq!((solved.group_size, solved.groups()), (group, cols.div_ceil(group)), "{case}");
                solved.check().unwrap();
                let scales = solved.scales.of_groups();
                let mut scales = scales.iter().zip(0..);
                let groups = weight.chunks(cols).flat_map(|row| row.chunks(group));
                let parts = solved.codes.chunks(cols).flat_map(|row| row.chunks(group));
                let decoded = solved.dequantize();
                let decoded = decoded.chunks(cols).flat_map(|row| row.chunks(group));
                for ((weight, codes), decoded) in groups.zip(parts).zip(decoded) {
                    let (&ours, at) = scales.next().unwrap();
                    let zero =
                        solved.zero_points.as_ref().map_or(0.0, |zeros: &Vec<i8>| f32::from(zeros[at]));
                    let exact: Vec<f64> = weight.iter().map(|&w| f64::from(w)).collect();
                    let (theirs, their_zero) = scale(format, search, &exact, &vec![1.0; exact.len()]);
                    assert!((f64::from(ours) / theirs - 1.0).abs() < 1e-6, "{case}: {ours}, not {theirs}");
                    assert_eq!(f64::from(zero), their_zero, "{case}");
                    for ((value, &code), &decoded) in weight.iter().zip(codes).zip(decoded) {
                        assert_eq!(code, format.format.encode(value / ours + zero), "{case}");
                        assert_eq!(decoded, (format.format.decode(code) - zero) * ours, "{case}");
                    }
                }
            }
            assert_eq!(solve(ScaleSearch::Hessian), solve(ScaleSearch::Mse));
        }
    }
}

#[test]
fn measures_of_the_result() {
    let weight = [6.0, 2.4, -1.0, 0.0, 3.0, 0.0];
    let solved = rtn(&weight, 1, 6, Format::E2M1.into(), 4, ScaleSearch::Max).unwrap();
    assert_eq!(solved.dequantize(), [6.0, 2.0, -1.0, 0.0, 3.0, 0.0]);
    assert_eq!(solved.bits_per_weight(), 4.0 + 2.0 * 32.0 / 6.0);
    let expected = f64::from(2.4f32 - 2.0) / weight.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
    assert!((solved.relative_error(&weight) - expected).abs() < 1e-12);
    assert_eq!(
        rtn(&[0.0; 4], 2, 2, Format::E4M3.into(), 2, ScaleSearch::Mse).unwrap().relative_error(&[0.0; 4]),
        0.0
    );
}

#[test]
fn a_group_too_small_to_scale_becomes_zero() {
    let solved = rtn(&[1e-45, -1e-45], 1, 2, Format::E2M1.into(), 0, ScaleSearch::Mse).unwrap();
    assert_eq!(*solved.scales.of_groups(), [1.0]);
    assert_eq!(solved.dequantize(), [0.0, 0.0]);
}

#[test]
fn refuses_what_is_no_matrix() {
    let error = |weight: &[f32], rows, cols| {
        rtn(weight, rows, cols, Format::E2M1.into(), 128, ScaleSearch::Mse).unwrap_err()
    };
    assert_eq!(error(&[], 0, 4), FormatError::Empty { rows: 0, cols: 4 }.into());
    let length = FormatError::Length { what: "the weight matrix", expected: 6, actual: 5 }.into();
    assert_eq!(error(&[0.0; 5], 2, 3), length);
    assert!(matches!(error(&[0.0; 5], usize::MAX, 3), SolveError::Format(FormatError::Length { .. })));
    let infinite = SolveError::NonFiniteWeight { row: 1, col: 0, value: f32::INFINITY };
    assert_eq!(error(&[0.0, 0.0, f32::INFINITY, f32::NAN], 2, 2), infinite);
}

#[test]
fn an_asymmetric_group_uses_every_code() {
    let weight: Vec<f32> = (0..16).map(|i| 0.5 * i as f32 - 2.0).collect();
    let format = WeightFormat { format: Format::Int4, asymmetric: true };
    let solved = rtn(&weight, 1, 16, format, 0, ScaleSearch::Max).unwrap();
    assert_eq!(solved.dequantize(), weight);
    assert_eq!(solved.zero_points, Some(vec![-4]));
    assert_eq!(solved.codes, (0..16).map(|i| (i + 8) % 16).collect::<Vec<u8>>());
    assert_eq!(solved.bits_per_weight(), 4.0 + (32.0 + 8.0) / 16.0);
}

#[test]
fn an_asymmetric_group_of_one_sign_reaches_to_zero() {
    let format = WeightFormat { format: Format::Int8, asymmetric: true };
    for sign in [1.0, -1.0] {
        let weight = [sign * 255.0, sign * 200.0];
        let solved = rtn(&weight, 1, 2, format, 0, ScaleSearch::Max).unwrap();
        assert_eq!(solved.dequantize(), weight);
        assert_eq!(solved.zero_points, Some(vec![if sign > 0.0 { -128 } else { 127 }]));
    }
}

#[test]
fn zero_points_are_for_integers() {
    let format = WeightFormat { format: Format::E2M1, asymmetric: true };
    let error = rtn(&[1.0], 1, 1, format, 0, ScaleSearch::Max).unwrap_err();
    assert_eq!(error, FormatError::ZeroPoints(Format::E2M1).into());
}
