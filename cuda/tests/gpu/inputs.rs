//! Strided inputs, and such as do not fit.

use super::*;

/// Halves of a common output, as a fused gate and up projection leaves them.
#[test]
fn strided_inputs() {
    let device = device();
    let mut random = Random(10);
    let layer = Spec::new(96, 384, 128, 16).layer("layer", &mut random);
    let bench = Bench::new(&device, &[vec![layer.clone()]]);
    let k = layer.matrix.cols;
    for tokens in [1, 30, 100] {
        let both: Vec<bf16> = rows(tokens, 2 * k, false, &mut random);
        let half = |first: usize| -> Vec<f64> {
            both.chunks_exact(2 * k).flat_map(|row| values(&row[first..first + k])).collect()
        };
        let transformed = support::prologue(Prologue::SiluMul, &half(0), &half(k), k, EPSILON);
        let quantized = support::quantized(&transformed, k);
        let both = bench.upload(&both);
        let (gate, up) = (both.slice(..), both.slice(k..));
        let mut scratch = bench.model.scratch(tokens).unwrap();
        let input = Input::silu_mul(&gate, &up).strided(2 * k, 2 * k);
        let activation = bench.linear(&layer).activation();
        bench.model.quantize(activation, input, tokens, &mut scratch, &bench.stream).unwrap();
        let y = bench.output::<bf16>(&layer, tokens, |linear, y| linear.apply(&scratch, y, &bench.stream));
        compare(&format!("{tokens} tokens, strided"), &layer, &quantized, &y);
    }
}

/// What does not fit is an error that names it, and launches nothing.
#[test]
fn misuse_is_an_error() {
    let device = device();
    let mut random = Random(12);
    let layer = Spec::new(16, 64, 0, 0).layer("layer", &mut random);
    let other = Spec::new(16, 32, 0, 0).layer("other", &mut random);
    let bench = Bench::new(&device, &[vec![layer.clone()], vec![other.clone()]]);
    let stranger = Bench::new(&device, &[vec![layer.clone()]]);
    let (linear, stream) = (bench.linear(&layer), &bench.stream);
    let mut scratch = bench.model.scratch(4).unwrap();
    let (x, mut y) = (bench.upload(&vec![bf16::ONE; 5 * 64]), bench.upload(&[bf16::ONE; 4 * 16]));
    let quantize = |columns: usize, tokens: usize, scratch: &mut Scratch| {
        let x = x.slice(..tokens * columns);
        bench.model.quantize(linear.activation(), Input::plain(&x), tokens, scratch, stream)
    };
    let message = |result: Result<(), Error>| result.unwrap_err().to_string();

    assert_eq!(bench.model.linear("none").unwrap_err().to_string(), "the model has no layer \"none\"");
    let mut y4 = y.slice_mut(..64);
    assert_eq!(
        message(linear.apply(&scratch, &mut y4, stream)),
        "the scratch does not hold the quantized input of layer \"layer\""
    );
    assert_eq!(message(quantize(63, 4, &mut scratch)), "x has 252 elements instead of 256");
    assert_eq!(message(quantize(64, 5, &mut scratch)), "5 tokens do not fit a scratch made for 4");
    let mut strange = stranger.model.scratch(4).unwrap();
    assert_eq!(message(quantize(64, 4, &mut strange)), "the scratch belongs to another model");
    quantize(64, 4, &mut scratch).unwrap();
    let mut short = y.slice_mut(..63);
    assert_eq!(message(linear.apply(&scratch, &mut short, stream)), "y has 63 elements instead of 64");
    let mut y4 = y.slice_mut(..64);
    assert_eq!(
        message(bench.linear(&other).apply(&scratch, &mut y4, stream)),
        "the scratch does not hold the quantized input of layer \"other\""
    );
    linear.apply(&scratch, &mut y4, stream).unwrap();
    let none = LinearVariant { kernel: LinearKernel::Decode, tokens: 12, cluster: 1, blocks_per_sm: 1 };
    assert_eq!(
        message(linear.apply_variant(none, &scratch, &mut y4, stream)),
        "no such kernel variant: decode of 12 tokens in clusters of 1, 1 a multiprocessor"
    );
    let mut scratch = bench.model.scratch(9).unwrap();
    let nine = bench.upload(&[bf16::ONE; 9 * 64]);
    let input = nine.slice(..9 * 64);
    bench.model.quantize(linear.activation(), Input::plain(&input), 9, &mut scratch, stream).unwrap();
    let mut y9 = bench.upload(&[bf16::ONE; 9 * 16]);
    let eight = LinearVariant { kernel: LinearKernel::Decode, tokens: 8, cluster: 1, blocks_per_sm: 2 };
    assert_eq!(
        message(linear.apply_variant(eight, &scratch, &mut y9.slice_mut(..9 * 16), stream)),
        "no such kernel variant: decode of 8 tokens for 9"
    );
}
