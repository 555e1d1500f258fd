use zqc_formats::FormatError;
use zqc_formats::{Format, Ladder, QuantizedMatrix, Scales};

fn m2(rows: Vec<f32>, shifts: &[u8]) -> Scales {
    Scales::Shifted { ladder: Ladder::M2, rows, shifts: shifts.to_vec() }
}

/// Two rows of five E2M1 weights in groups of two, scales shifted under M2.
fn shifted() -> QuantizedMatrix {
    QuantizedMatrix {
        format: Format::E2M1,
        rows: 2,
        cols: 5,
        group_size: 2,
        codes: vec![2, 7, 10, 1, 15, 4, 5, 6, 0, 3],
        scales: m2(vec![3.0, 0.5], &[0, 1, 14, 2, 0, 3]),
        zero_points: None,
    }
}

#[test]
fn a_shift_lowers_the_scale_of_the_row() {
    let matrix = shifted();
    matrix.check().unwrap();
    assert_eq!(*matrix.scales.of_groups(), [3.0, 1.5, 3.0 / 16384.0, 0.125, 0.5, 0.0625]);
    let expected = [3.0, 18.0, -1.5, 0.75, -18.0 / 16384.0, 0.25, 0.375, 2.0, 0.0, 0.09375];
    assert_eq!(matrix.dequantize(), expected);
    assert_eq!(matrix.bits_per_weight(), 4.0 + (2.0 * 32.0 + 6.0 * 4.0) / 10.0);
    let scales = Scales::Shifted { ladder: Ladder::M3, rows: vec![8.0], shifts: vec![0, 1, 2, 3, 15] };
    assert_eq!(*scales.of_groups(), [12.0, 10.0, 8.0, 6.0, 0.375]);
}

#[test]
fn a_zero_point_is_the_code_of_zero() {
    let matrix = QuantizedMatrix {
        format: Format::Int8,
        scales: Scales::Grouped(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        zero_points: Some(vec![2, -128, 0, 4, 127, 1]),
        ..shifted()
    };
    matrix.check().unwrap();
    assert_eq!(matrix.dequantize(), [0.0, 5.0, 276.0, 258.0, 45.0, 0.0, 4.0, -605.0, -635.0, 12.0]);
    assert_eq!(matrix.bits_per_weight(), 8.0 + 6.0 * (32.0 + 8.0) / 10.0);
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let shifts = |shifts: &[u8]| m2(vec![1.0; 2], shifts);
    let length = |what, expected, actual| FormatError::Length { what, expected, actual };
    let cases = [
        (QuantizedMatrix { rows: 0, ..shifted() }, FormatError::Empty { rows: 0, cols: 5 }),
        (QuantizedMatrix { group_size: 0, ..shifted() }, FormatError::GroupSize),
        (QuantizedMatrix { codes: vec![0; 9], ..shifted() }, length("the codes", 10, 9)),
        (QuantizedMatrix { scales: Scales::Grouped(vec![1.0; 5]), ..shifted() }, length("the scales", 6, 5)),
        (QuantizedMatrix { scales: shifts(&[0; 5]), ..shifted() }, length("the shifts", 6, 5)),
        (
            QuantizedMatrix { scales: shifts(&[0, 1, 2, 3, 15, 5]), ..shifted() },
            FormatError::Shift { shift: 15, format: Format::E2M1, max: 14 },
        ),
        (
            QuantizedMatrix { format: Format::Int4, ..shifted() },
            FormatError::Shifted { format: Format::Int4, ladder: Ladder::M2 },
        ),
        (
            QuantizedMatrix { zero_points: Some(vec![0; 6]), ..shifted() },
            FormatError::ZeroPoints(Format::E2M1),
        ),
        (
            QuantizedMatrix {
                format: Format::Int4,
                scales: Scales::Grouped(vec![1.0; 6]),
                zero_points: Some(vec![0; 2]),
                ..shifted()
            },
            length("the zero points", 6, 2),
        ),
    ];
    for (matrix, error) in cases {
        assert_eq!(matrix.check(), Err(error));
    }
}
