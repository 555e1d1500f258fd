use zqc_numerics::{Format, ScaleSearch, SolveError, rtn};

use crate::{Random, scale};

#[test]
fn agrees_with_the_definition() {
    let mut random = Random(4);
    for (rows, cols, group_size) in [(3, 172, 128), (2, 64, 128), (5, 40, 0), (1, 1, 1), (4, 30, 7)] {
        let mut weight = random.normal(rows * cols);
        weight[..cols.min(7)].fill(0.0);
        for format in Format::ALL {
            let solve = |search| rtn(&weight, rows, cols, format, group_size, search).unwrap();
            for search in [ScaleSearch::Max, ScaleSearch::Mse] {
                let solved = solve(search);
                let case = format!("{format} {rows}x{cols}/{group_size} {search:?}");
                let group = if group_size == 0 { cols } else { group_size.min(cols) };
                assert_eq!((solved.group_size, solved.groups()), (group, cols.div_ceil(group)), "{case}");
                let mut scales = solved.scales.iter();
                let groups = weight.chunks(cols).flat_map(|row| row.chunks(group));
                let parts = solved.codes.chunks(cols).flat_map(|row| row.chunks(group));
                let decoded = solved.dequantize();
                let decoded = decoded.chunks(cols).flat_map(|row| row.chunks(group));
                for ((weight, codes), decoded) in groups.zip(parts).zip(decoded) {
                    let ours = *scales.next().unwrap();
                    let exact: Vec<f64> = weight.iter().map(|&w| f64::from(w)).collect();
                    let theirs = scale(format, search, &exact, &vec![1.0; exact.len()]);
                    assert!((f64::from(ours) / theirs - 1.0).abs() < 1e-6, "{case}: {ours}, not {theirs}");
                    for ((value, &code), &decoded) in weight.iter().zip(codes).zip(decoded) {
                        assert_eq!(code, format.encode(value / ours), "{case}");
                        assert_eq!(decoded, format.decode(code) * ours, "{case}");
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
    let solved = rtn(&weight, 1, 6, Format::E2M1, 4, ScaleSearch::Max).unwrap();
    assert_eq!(solved.dequantize(), [6.0, 2.0, -1.0, 0.0, 3.0, 0.0]);
    assert_eq!(solved.bits_per_weight(), 4.0 + 2.0 * 32.0 / 6.0);
    let expected = f64::from(2.4f32 - 2.0) / weight.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
    assert!((solved.relative_error(&weight) - expected).abs() < 1e-12);
    assert_eq!(
        rtn(&[0.0; 4], 2, 2, Format::E4M3, 2, ScaleSearch::Mse).unwrap().relative_error(&[0.0; 4]),
        0.0
    );
}

#[test]
fn a_group_too_small_to_scale_becomes_zero() {
    let solved = rtn(&[1e-45, -1e-45], 1, 2, Format::E2M1, 0, ScaleSearch::Mse).unwrap();
    assert_eq!(solved.scales, [1.0]);
    assert_eq!(solved.dequantize(), [0.0, 0.0]);
}

#[test]
fn refuses_what_is_no_matrix() {
    let error = |weight: &[f32], rows, cols| {
        rtn(weight, rows, cols, Format::E2M1, 128, ScaleSearch::Mse).unwrap_err()
    };
    assert_eq!(error(&[], 0, 4), SolveError::Empty { rows: 0, cols: 4 });
    let length = SolveError::Length { what: "the weight matrix", expected: 6, actual: 5 };
    assert_eq!(error(&[0.0; 5], 2, 3), length);
    assert!(matches!(error(&[0.0; 5], usize::MAX, 3), SolveError::Length { .. }));
    let infinite = SolveError::NonFiniteWeight { row: 1, col: 0, value: f32::INFINITY };
    assert_eq!(error(&[0.0, 0.0, f32::INFINITY, f32::NAN], 2, 2), infinite);
}
