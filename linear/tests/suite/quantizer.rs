//! Tokens are quantized as `zqc-formats` does, bit for bit, on every instruction set.

use half::{bf16, f16};
use zqc_formats::{ActivationFormat, quantize_dequantize_tokens};
use zqc_linear::{Activations, Isa, quantize_tokens, reference};

use crate::noise::Noise;

/// Codes, scales and zero points.
type Quantized = (Vec<u8>, Vec<f32>, Vec<u8>);

fn quantize(isa: Isa, format: ActivationFormat, x: Activations<'_>, len: usize, k: usize) -> Quantized {
    let m = len / k;
    let (mut codes, mut scales) = (vec![0; len], vec![0.0; m]);
    let mut zero_points = vec![0; if format.float().is_some() { 0 } else { m }];
    quantize_tokens(isa, format, x, k, &mut codes, &mut scales, &mut zero_points).expect("shapes that fit");
    (codes, scales, zero_points)
}

fn dequantize(format: ActivationFormat, (codes, scales, zero_points): &Quantized, k: usize) -> Vec<f32> {
    let value = |(at, &code): (usize, &u8)| {
        let centred = match format.float() {
            Some(float) => float.decode(code),
            None => f32::from(code) - f32::from(zero_points[at / k]),
        };
        centred * scales[at / k]
    };
    codes.iter().enumerate().map(value).collect()
}

/// Values of many magnitudes, ties of both formats among them.
fn activations(m: usize, k: usize, noise: &mut Noise) -> Vec<f32> {
    (0..m * k)
        .map(|at| match (at / k) % 5 {
            0 => noise.float(),
            1 => noise.float().powi(9) * 100.0,
            // The scale of these is 1, so that they are codes, ties between two, and what rounds to 0.
            2 if at % k == 0 => 448.0,
            2 => {
                noise.choose(&[1.0, -1.0])
                    * (noise.below(64) as f32 / 16.0)
                    * (2.0f32).powi(noise.below(16) as i32 - 10)
            }
            3 => noise.float() * 1e-30,
            _ => noise.float() + noise.choose(&[0.0, 30.0]),
        })
        .collect()
}

#[test]
fn codes_and_scales_are_those_of_the_formats() {
    let noise = &mut Noise::new(5);
    for format in ActivationFormat::ALL {
        for k in [1, 7, 64, 100, 576] {
            let m = 25;
            let x = activations(m, k, noise);
            let mut expected = x.clone();
            quantize_dequantize_tokens(&mut expected, k, format);
            for isa in Isa::available() {
                let quantized = quantize(isa, format, Activations::F32(&x), m * k, k);
                let actual = dequantize(format, &quantized, k);
                let same = |(a, b): (&f32, &f32)| a == b;
                assert!(actual.iter().zip(&expected).all(same), "{isa} {format} {k}");
                // The definition gives the same codes, and not only the same values.
                for (at, x) in x.chunks_exact(k).enumerate() {
                    let mut codes = vec![0; k];
                    let (scale, zero_point) = reference::quantize_token(format, x, &mut codes);
                    assert_eq!(codes, quantized.0[at * k..(at + 1) * k], "{isa} {format} {k}");
                    assert_eq!(scale, quantized.1[at]);
                    assert_eq!(zero_point, quantized.2.get(at).copied().unwrap_or(0));
                }
            }
        }
    }
}

#[test]
fn activations_of_16_bits_are_quantized_as_floats() {
    let noise = &mut Noise::new(6);
    let (m, k) = (4, 90);
    let halves: Vec<f16> = noise.floats(m * k).into_iter().map(f16::from_f32).collect();
    let brains: Vec<bf16> = noise.floats(m * k).into_iter().map(bf16::from_f32).collect();
    for format in ActivationFormat::ALL {
        for isa in Isa::available() {
            let floats = |x: Vec<f32>| quantize(isa, format, Activations::F32(&x), m * k, k);
            let of_halves = quantize(isa, format, Activations::F16(&halves), m * k, k);
            assert_eq!(of_halves, floats(halves.iter().map(|x| x.to_f32()).collect()));
            let of_brains = quantize(isa, format, Activations::Bf16(&brains), m * k, k);
            assert_eq!(of_brains, floats(brains.iter().map(|x| x.to_f32()).collect()));
        }
    }
}

#[test]
fn a_token_that_is_not_finite_is_not_a_number() {
    let noise = &mut Noise::new(7);
    for format in ActivationFormat::ALL {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise.floats(3 * 40);
            x[40 + 13] = bad;
            for isa in Isa::available() {
                let quantized = quantize(isa, format, Activations::F32(&x), x.len(), 40);
                let nan: Vec<bool> = dequantize(format, &quantized, 40).iter().map(|x| x.is_nan()).collect();
                assert!(
                    nan.iter().enumerate().all(|(at, &nan)| nan == (at / 40 == 1)),
                    "{isa} {format} {bad}"
                );
            }
        }
    }
}
