use zqc_formats::{Format, ParseFormatError};

use crate::floats;

/// Records (input: f32, code: u8) of `tests/tables/generate.py`.
fn table(format: Format) -> &'static [u8] {
    match format {
        Format::E2M1 => include_bytes!("../tables/e2m1.bin"),
        Format::E3M0 => include_bytes!("../tables/e3m0.bin"),
        Format::E4M3 => include_bytes!("../tables/e4m3.bin"),
        Format::E5M2 => include_bytes!("../tables/e5m2.bin"),
        Format::Int4 => include_bytes!("../tables/int4.bin"),
        Format::Int8 => include_bytes!("../tables/int8.bin"),
        Format::Lut4 => include_bytes!("../tables/lut4.bin"),
    }
}

#[test]
fn encode_agrees_with_the_tables() {
    for format in Format::ALL {
        for record in table(format).chunks_exact(5) {
            let input = f32::from_le_bytes(record[..4].try_into().unwrap());
            assert_eq!(format.encode(input), record[4], "{format} of {input:e} ({:08x})", input.to_bits());
        }
    }
}

#[test]
fn round_is_decode_of_encode() {
    for format in Format::ALL {
        for record in table(format).chunks_exact(5) {
            let input = f32::from_le_bytes(record[..4].try_into().unwrap());
            assert_eq!(format.round(input), format.decode(format.encode(input)), "{format} of {input:e}");
        }
    }
}

#[test]
fn decode_agrees_with_ml_dtypes_on_every_code() {
    for (format, values) in [
        (Format::E2M1, floats(include_bytes!("../tables/e2m1_values.bin"))),
        (Format::E4M3, floats(include_bytes!("../tables/e4m3_values.bin"))),
        (Format::E5M2, floats(include_bytes!("../tables/e5m2_values.bin"))),
    ] {
        for (code, (ours, theirs)) in format.codebook().into_iter().zip(values).enumerate() {
            let same = ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan());
            assert!(same, "{format} code {code:#x}: {ours} instead of {theirs}");
        }
    }
}

#[test]
fn codebooks_of_the_formats_ml_dtypes_lacks() {
    let e3m0 = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0];
    assert_eq!(Format::E3M0.codebook(), [e3m0, e3m0.map(|value| -value)].concat());
    let int4: Vec<f32> = (0..8).chain(-8..0).map(|value| value as f32).collect();
    assert_eq!(Format::Int4.codebook(), int4);
    let int8: Vec<f32> = (0..128).chain(-128..0).map(|value| value as f32).collect();
    assert_eq!(Format::Int8.codebook(), int8);
    let lut4 = [0.234375, 0.75, 1.375, 1.875, 2.75, 3.5, 4.5, 6.0];
    assert_eq!(Format::Lut4.codebook(), [lut4, lut4.map(|value| -value)].concat());
}

#[test]
fn every_finite_code_survives_a_round_trip() {
    for format in Format::ALL {
        for (code, value) in format.codebook().into_iter().enumerate().filter(|(_, value)| value.is_finite())
        {
            assert_eq!(format.encode(value), code as u8, "{format} code {code:#x}, value {value}");
        }
    }
}

#[test]
fn max_is_the_largest_finite_value() {
    for format in Format::ALL {
        let largest = format.codebook().into_iter().filter(|value| value.is_finite()).fold(0.0, f32::max);
        assert_eq!(format.max(), largest, "{format}");
    }
}

#[test]
fn nan_has_a_code_only_in_fp8() {
    let codes = Format::ALL.map(|format| format.encode(f32::NAN));
    assert_eq!(codes, [0, 0, 0x7F, 0x7E, 0, 0, 0]);
    assert_eq!(Format::ALL.map(|format| format.encode(-f32::NAN)), codes);
    assert!(Format::E4M3.round(f32::NAN).is_nan() && Format::E5M2.round(f32::NAN).is_nan());
    assert_eq!(Format::E2M1.round(f32::NAN), 0.0);
}

#[test]
fn names_parse_back() {
    for format in Format::ALL {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    assert_eq!("fp4".parse::<Format>(), Err(ParseFormatError("fp4".to_owned())));
}
