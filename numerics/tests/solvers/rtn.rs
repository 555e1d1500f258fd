use zqc_numerics::{Format, SolveError, rtn};

use crate::Random;

#[test]
fn agrees_with_the_definition() {
    let mut random = Random(4);
    for (rows, cols, group_size) in [(3, 172, 128), (2, 64, 128), (5, 40, 0), (1, 1, 1), (4, 30, 7)] {
        let mut weight = random.normal(rows * cols);
        weight[..cols.min(7)].fill(0.0);
        for format in Format::ALL {
            let solved = rtn(&weight, rows, cols, format, group_size).unwrap();
            let group = if group_size == 0 { cols } else { group_size.min(cols) };
            assert_eq!((solved.group_size, solved.groups()), (group, cols.div_ceil(group)));
            let dequantized = solved.dequantize();
            for (row, weight) in weight.chunks(cols).enumerate() {
                for (g, weight) in weight.chunks(group).enumerate() {
                    let largest = weight.iter().fold(0.0f32, |max, value| max.max(value.abs()));
                    let scale = if largest == 0.0 { 1.0 } else { largest / format.max() };
                    assert_eq!(solved.scales[row * solved.groups() + g], scale);
                    for (i, value) in weight.iter().enumerate() {
                        let at = row * cols + g * group + i;
                        let code = format.encode(value / scale);
                        assert_eq!(solved.codes[at], code, "{format} {rows}x{cols}/{group_size} at {at}");
                        assert_eq!(dequantized[at], format.decode(code) * scale);
                    }
                }
            }
        }
    }
}

#[test]
fn measures_of_the_result() {
    let weight = [6.0, 2.4, -1.0, 0.0, 3.0, 0.0];
    let solved = rtn(&weight, 1, 6, Format::E2M1, 4).unwrap();
    assert_eq!(solved.dequantize(), [6.0, 2.0, -1.0, 0.0, 3.0, 0.0]);
    assert_eq!(solved.bits_per_weight(), 4.0 + 2.0 * 32.0 / 6.0);
    let expected = f64::from(2.4f32 - 2.0) / weight.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
    assert!((solved.relative_error(&weight) - expected).abs() < 1e-12);
    assert_eq!(rtn(&[0.0; 4], 2, 2, Format::E4M3, 2).unwrap().relative_error(&[0.0; 4]), 0.0);
}

#[test]
fn a_group_too_small_to_scale_becomes_zero() {
    let solved = rtn(&[1e-45, -1e-45], 1, 2, Format::E2M1, 0).unwrap();
    assert_eq!(solved.scales, [1.0]);
    assert_eq!(solved.dequantize(), [0.0, 0.0]);
}

#[test]
fn refuses_what_is_no_matrix() {
    let error = |weight: &[f32], rows, cols| rtn(weight, rows, cols, Format::E2M1, 128).unwrap_err();
    assert_eq!(error(&[], 0, 4), SolveError::Empty { rows: 0, cols: 4 });
    let length = SolveError::Length { what: "the weight matrix", expected: 6, actual: 5 };
    assert_eq!(error(&[0.0; 5], 2, 3), length);
    assert!(matches!(error(&[0.0; 5], usize::MAX, 3), SolveError::Length { .. }));
    let infinite = SolveError::NonFiniteWeight { row: 1, col: 0, value: f32::INFINITY };
    assert_eq!(error(&[0.0, 0.0, f32::INFINITY, f32::NAN], 2, 2), infinite);
}
