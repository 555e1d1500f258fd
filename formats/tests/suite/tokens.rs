use proptest::{collection::vec, prelude::*};
use zqc_formats::{ActivationFormat, Format, SCALE_FLOOR, quantize_dequantize_tokens};

use crate::floats;

#[test]
fn bit_exact_with_onnx_runtime() {
    let input = floats(include_bytes!("../tables/tokens.bin"));
    for (format, expected) in [
        (ActivationFormat::E4M3, floats(include_bytes!("../tables/tokens_e4m3.bin"))),
        (ActivationFormat::E5M2, floats(include_bytes!("../tables/tokens_e5m2.bin"))),
        (ActivationFormat::Int8, floats(include_bytes!("../tables/tokens_int8.bin"))),
    ] {
        let mut x = input.clone();
        quantize_dequantize_tokens(&mut x, 61, format);
        assert_eq!(x.len(), expected.len());
        for (i, (ours, theirs)) in x.iter().zip(expected).enumerate() {
            let place = format!("{format}, token {}, feature {}: {}", i / 61, i % 61, input[i]);
            assert_eq!(ours.to_bits(), theirs.to_bits(), "{place}");
        }
    }
}

/// The example of ZeroQuant-FP's figure 2: INT8 asymmetric with the scale of the vector, FP8 by casts without a scale.
#[test]
fn figure_2_of_zeroquant_fp() {
    let x = [-0.4, -0.3, -0.2, -0.1, -0.001, 0.0, 0.001, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 10.0, 100.0];
    let mut int8 = x;
    quantize_dequantize_tokens(&mut int8, x.len(), ActivationFormat::Int8);
    let printed = |values: [f32; 15]| values.map(|value| format!("{value:.3}")).join(" ");
    assert_eq!(
        printed(int8),
        "-0.394 -0.394 -0.394 0.000 0.000 0.000 0.000 0.000 0.394 0.394 0.394 0.394 1.181 9.843 100.006"
    );
    assert_eq!(
        printed(x.map(|value| Format::E5M2.round(value))),
        "-0.375 -0.312 -0.188 -0.094 -0.001 0.000 0.001 0.094 0.188 0.312 0.375 0.500 1.000 10.000 96.000"
    );
    // The last value lies halfway between 96 and 104. The paper prints 104: its software, QPyTorch, rounds ties away from
    // zero (and its E4M3 ends at 480); IEEE and the hardware round them to the even significand.
    assert_eq!(
        printed(x.map(|value| Format::E4M3.round(value))),
        "-0.406 -0.312 -0.203 -0.102 -0.002 0.000 0.002 0.102 0.203 0.312 0.406 0.500 1.000 10.000 96.000"
    );
}

#[test]
fn only_the_token_with_a_non_finite_value_is_lost() {
    for format in ActivationFormat::ALL {
        let (nan, infinity) = (f32::NAN, f32::INFINITY);
        let mut x = [0.0, 1.0, nan, 1.0, 1.0, -nan, 1.0, infinity, -infinity, -1.0];
        quantize_dequantize_tokens(&mut x, 2, format);
        assert_eq!(x[..2], [0.0, 1.0], "{format}");
        assert!(x[2..].iter().all(|value| value.is_nan()), "{format}: {x:?}");
    }
}

#[test]
fn tokens_of_one_sign_and_of_zeros() {
    let mut x = [255.0, 51.0, -255.0, -51.0, 0.0, -0.0];
    quantize_dequantize_tokens(&mut x, 2, ActivationFormat::Int8);
    assert_eq!(x, [255.0, 51.0, -255.0, -51.0, 0.0, 0.0]);
}

/// One token, straight from the definition.
fn expected(token: &[f32], format: ActivationFormat) -> Vec<f32> {
    let (low, high) = token.iter().fold((0.0f32, 0.0f32), |(low, high), &v| (low.min(v), high.max(v)));
    let Some(float) = format.float() else {
        let scale = ((high - low) / 255.0).max(SCALE_FLOOR);
        let zero = (-low / scale).round_ties_even();
        let code = |value: f32| ((value / scale).round_ties_even() + zero).clamp(0.0, 255.0);
        return token.iter().map(|&value| (code(value) - zero) * scale).collect();
    };
    let scale = (high.max(-low) / float.max()).max(SCALE_FLOOR);
    token.iter().map(|value| float.decode(float.encode(value / scale)) * scale).collect()
}

proptest! {
    #[test]
    fn follows_the_definition(x in vec(-1e4f32..1e4, 48), width in prop::sample::select(vec![1usize, 3, 16, 48])) {
        for format in ActivationFormat::ALL {
            let mut ours = x.clone();
            quantize_dequantize_tokens(&mut ours, width, format);
            let expected: Vec<f32> = x.chunks(width).flat_map(|token| expected(token, format)).collect();
            prop_assert_eq!(ours, expected);
        }
    }
}
