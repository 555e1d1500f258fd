use proptest::{collection::vec, prelude::*};
use zqc_numerics::{Format, SCALE_FLOOR, quantize_dequantize_tokens};

use crate::floats;

#[test]
fn e4m3_is_bit_exact_with_onnx_runtime() {
    let table = floats(include_bytes!("../tables/tokens_e4m3.bin"));
    let (input, expected) = table.split_at(table.len() / 2);
    let mut x = input.to_vec();
    quantize_dequantize_tokens(&mut x, 61, Format::E4M3);
    for (i, (ours, theirs)) in x.iter().zip(expected).enumerate() {
        assert_eq!(ours.to_bits(), theirs.to_bits(), "token {}, feature {}: {}", i / 61, i % 61, input[i]);
    }
}

#[test]
fn only_the_token_with_a_non_finite_value_is_lost() {
    let mut x = [1.0, 2.0, f32::NAN, 1.0, 1.0, f32::INFINITY];
    quantize_dequantize_tokens(&mut x, 2, Format::E4M3);
    assert_eq!(x[..2], [1.0, 2.0]);
    assert!(x[2..].iter().all(|value| value.is_nan()));
}

proptest! {
    #[test]
    fn follows_the_definition(mut x in vec(-1e4f32..1e4, 48), width in prop::sample::select(vec![1usize, 3, 16, 48])) {
        for format in Format::ALL {
            let expected: Vec<f32> = x
                .chunks(width)
                .flat_map(|token| {
                    let largest = token.iter().fold(0.0f32, |max, value| max.max(value.abs()));
                    let scale = (largest / format.max()).max(SCALE_FLOOR);
                    token.iter().map(move |value| format.decode(format.encode(value / scale)) * scale)
                })
                .collect();
            quantize_dequantize_tokens(&mut x, width, format);
            prop_assert_eq!(&x, &expected);
        }
    }
}
