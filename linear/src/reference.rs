//! The definition: plain loops over the operands as the file has them, in the [order of sums](crate#order-of-sums).

use half::{bf16, f16};
use zqc_formats::{ActivationFormat, Format, SCALE_FLOOR};

use crate::error::{PackError, ShapeError};
use crate::layer::{Extra, Layer, flush_to_zero};
use crate::operands::{Output, Tokens};
use crate::tiling::BLOCK;

/// Computes `output [M, N]` of `tokens [M, K]`.
///
/// # Errors
/// When the slices do not fit.
///
/// # Panics
/// When the layer is not well-formed, see [`Layer::check`].
pub fn forward(layer: &Layer<'_>, tokens: Tokens<'_>, output: Output<'_>) -> Result<(), ShapeError> {
    layer.check().unwrap_or_else(|error: PackError| panic!("{error}"));
    let m = tokens.rows(layer.k)?;
    ShapeError::check("outputs", output.len(), m * layer.n)?;
    let codebook = layer.format.codebook();
    let mut y = vec![0.0; m * layer.n];
    for n in 0..layer.n {
        let group = |k: usize| k / layer.group_size;
        let weight: Vec<f32> = (0..layer.k)
            .map(|k| {
                let value = codebook[usize::from(layer.code(k, n))];
                match layer.extra {
                    Extra::None => value,
                    Extra::Shifts(ladder, _) => ladder.apply(value, layer.shift(group(k), n)),
                    Extra::ZeroPoints(_) => value - f32::from(layer.zero_point(group(k), n)),
                }
            })
            .collect();
        for token in 0..m {
            let x = values(&tokens, layer.k, token);
            let groups = x.chunks(layer.group_size).zip(weight.chunks(layer.group_size));
            let acc = groups.enumerate().fold(0.0, |acc: f32, (g, (x, weight))| match layer.extra {
                Extra::Shifts(..) => add_products(acc, x, weight),
                _ => add_products(0.0, x, weight).mul_add(layer.group_scale(g, n), acc),
            });
            y[token * layer.n + n] = acc * layer.row_scale(n) * tokens.scale(token);
        }
    }
    if let Some(branch) = layer.low_rank {
        for (token, y) in y.chunks_exact_mut(layer.n).enumerate() {
            let x = values(&tokens, layer.k, token);
            for r in 0..branch.rank {
                let down: Vec<f32> =
                    (0..layer.k).map(|k| branch.value(branch.down, k * branch.rank + r)).collect();
                let t = add_products(0.0, &x, &down) * branch.scales[r] * tokens.scale(token);
                for (n, y) in y.iter_mut().enumerate() {
                    *y = t.mul_add(branch.value(branch.up, r * layer.n + n), *y);
                }
            }
        }
    }
    for y in y.chunks_exact_mut(layer.n) {
        for (n, y) in y.iter_mut().enumerate() {
            let biased = layer.bias.map_or(*y, |bias| *y + bias[n]);
            *y = if biased.is_nan() { f32::NAN } else { biased };
        }
    }
    match output {
        Output::F32(output) => output.copy_from_slice(&y),
        Output::F16(output) => output.iter_mut().zip(y).for_each(|(output, y)| *output = f16::from_f32(y)),
        Output::Bf16(output) => output.iter_mut().zip(y).for_each(|(output, y)| *output = bf16::from_f32(y)),
    }
    Ok(())
}

/// Adds the products of a group to a sum.
fn add_products(sum: f32, x: &[f32], weight: &[f32]) -> f32 {
    let block = |(x, weight): (&[f32], &[f32])| {
        let chain = |first: usize| {
            let pairs = x[first..].iter().zip(&weight[first..]).step_by(2);
            pairs.fold(0.0, |sum: f32, (x, weight)| x.mul_add(*weight, sum))
        };
        chain(0) + if x.len() > 1 { chain(1) } else { 0.0 }
    };
    x.chunks(BLOCK).zip(weight.chunks(BLOCK)).map(block).fold(sum, |sum, block| sum + block)
}

/// The values of the codes of a token, or its floats.
fn values(tokens: &Tokens<'_>, k: usize, token: usize) -> Vec<f32> {
    let row = token * k..(token + 1) * k;
    match *tokens {
        Tokens::Quantized { format, codes, zero_points, .. } => {
            let value = |&code: &u8| match format {
                ActivationFormat::E4M3 => Format::E4M3.decode(code),
                ActivationFormat::E5M2 => Format::E5M2.decode(code),
                ActivationFormat::Int8 => f32::from(code) - f32::from(zero_points[token]),
            };
            codes[row].iter().map(value).collect()
        }
        Tokens::F32(x) => x[row].to_vec(),
        Tokens::F16(x) => x[row].iter().map(|x| x.to_f32()).collect(),
        Tokens::Bf16(x) => x[row].iter().map(|x| flush_to_zero(x.to_f32())).collect(),
    }
}

/// Quantizes one token: its codes, and its scale and zero point.
pub fn quantize_token(format: ActivationFormat, x: &[f32], codes: &mut [u8]) -> (f32, u8) {
    let finite = x.iter().all(|x| x.is_finite());
    match format.float() {
        Some(float) if finite => {
            let peak = x.iter().fold(0.0, |peak: f32, x| peak.max(x.abs()));
            let scale = (peak / float.max()).max(SCALE_FLOOR);
            codes.iter_mut().zip(x).for_each(|(code, x)| *code = float.encode(x / scale));
            (scale, 0)
        }
        None if finite => {
            let low = x.iter().fold(0.0, |low: f32, x| low.min(*x));
            let high = x.iter().fold(0.0, |high: f32, x| high.max(*x));
            let scale = ((high - low) / 255.0).max(SCALE_FLOOR);
            let zero = (-low / scale).round_ties_even();
            let code = |x: f32| ((x / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8;
            codes.iter_mut().zip(x).for_each(|(to, x)| *to = code(*x));
            (scale, zero as u8)
        }
        // A token that holds NaN or infinity becomes all NaN, through its scale where codes have none.
        float => {
            codes.fill(float.map_or(0, |float| float.encode(f32::NAN)));
            (f32::NAN, 0)
        }
    }
}
