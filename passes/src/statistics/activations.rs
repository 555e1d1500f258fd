//! How skewed the tokens of an activation are, and what that costs each number format.

use rayon::prelude::*;
use zqc_formats::{ActivationFormat, quantize_dequantize_tokens};

use crate::statistics::{MagnitudeHistogram, TokenSample};

/// The tokens that a layer reads, before they are quantized.
#[derive(Debug, Clone, PartialEq)]
pub struct ActivationStatistics {
    /// Tokens looked at.
    pub tokens: usize,
    /// `|x|` relative to the largest of the token, over all values of tokens that are not zero.
    pub relative: MagnitudeHistogram,
    /// The largest magnitude of every token.
    pub token_max: MagnitudeHistogram,
    /// `|X - X̂| / |X|` in the Frobenius norm, where `X̂` is rounded token by token to the format.
    pub rounding_errors: Vec<(ActivationFormat, f64)>,
}

impl ActivationStatistics {
    /// Looks at every token of `sample`.
    pub fn new(sample: &TokenSample) -> Self {
        let (values, width) = (sample.values(), sample.width());
        let blocks = values.par_chunks(Block::TOKENS * width).map(|tokens| Block::new(tokens, width));
        let mut all = Block::default();
        blocks.collect::<Vec<Block>>().iter().for_each(|block| all.add(block));
        let Block { relative, token_max, energy, errors } = all;
        let norm = |error: f64| if error == 0.0 { 0.0 } else { (error / energy).sqrt() };
        let rounding_errors = ActivationFormat::ALL.into_iter().zip(errors.map(norm)).collect();
        Self { tokens: values.len() / width, relative, token_max, rounding_errors }
    }
}

/// Some tokens.
#[derive(Default)]
struct Block {
    relative: MagnitudeHistogram,
    token_max: MagnitudeHistogram,
    /// `|X|²`.
    energy: f64,
    /// `|X - X̂|²` in each format.
    errors: [f64; ActivationFormat::ALL.len()],
}

impl Block {
    /// How many: a constant, so that sums do not depend on the number of threads.
    const TOKENS: usize = 64;

    /// Looks at `tokens` `[T, width]`.
    fn new(tokens: &[f32], width: usize) -> Self {
        let mut block = Self::default();
        for token in tokens.chunks_exact(width) {
            let max = token.iter().fold(0f32, |max, x| max.max(x.abs()));
            block.token_max.add(max);
            if max > 0.0 {
                token.iter().for_each(|x| block.relative.add(x / max));
            }
        }
        let square = |x: f32| f64::from(x) * f64::from(x);
        block.energy = tokens.iter().map(|&x| square(x)).sum();
        block.errors = ActivationFormat::ALL.map(|format| {
            let mut rounded = tokens.to_vec();
            quantize_dequantize_tokens(&mut rounded, width, format);
            tokens.iter().zip(rounded).map(|(x, rounded)| square(x - rounded)).sum()
        });
        block
    }

    fn add(&mut self, other: &Self) {
        self.relative.merge(&other.relative);
        self.token_max.merge(&other.token_max);
        self.energy += other.energy;
        self.errors.iter_mut().zip(other.errors).for_each(|(sum, error)| *sum += error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tokens` tokens of 96 values, the largest of which stands far out.
    fn sample(tokens: usize) -> TokenSample {
        let value =
            |i: usize| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * if i % 96 == 3 { 200.0 } else { 1.0 };
        let mut sample = TokenSample::new(96, 1);
        sample.add(&(0..96 * tokens).map(value).collect::<Vec<f32>>());
        sample
    }

    #[test]
    fn relative_magnitudes_are_those_of_a_sort() {
        let sample = sample(300);
        let statistics = ActivationStatistics::new(&sample);
        let max = |token: &[f32]| token.iter().map(|x| x.abs()).fold(0.0, f32::max);
        let relative = |token: &'_ [f32]| token.iter().map(|x| x.abs() / max(token)).collect::<Vec<f32>>();
        let mut values: Vec<f32> = sample.values().chunks(96).flat_map(relative).collect();
        values.sort_by(f32::total_cmp);
        assert_eq!(statistics.relative.count(), values.len() as u64);
        for share in [0.5, 0.9, 0.99] {
            let exact = values[(share * (values.len() - 1) as f64) as usize];
            let found = statistics.relative.quantile(share);
            assert!((found / exact - 1.0).abs() < 1.0 / 16.0, "{share}: {found}, exactly {exact}");
        }
        let mut maxima: Vec<f32> = sample.values().chunks(96).map(max).collect();
        maxima.sort_by(f32::total_cmp);
        assert!((statistics.token_max.quantile(0.5) / maxima[150] - 1.0).abs() < 1.0 / 16.0);
        assert_eq!((statistics.tokens, statistics.token_max.count()), (300, 300));
    }

    #[test]
    fn rounding_errors_are_those_of_the_rounded_tokens() {
        let sample = sample(130);
        for (format, error) in ActivationStatistics::new(&sample).rounding_errors {
            let mut rounded = sample.values().to_vec();
            quantize_dequantize_tokens(&mut rounded, 96, format);
            let norm = |values: &[f32]| values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let difference: Vec<f32> = sample.values().iter().zip(rounded).map(|(x, r)| x - r).collect();
            let exact = norm(&difference) / norm(sample.values());
            assert!((error / exact - 1.0).abs() < 1e-9, "{format}: {error}, exactly {exact}");
        }
    }

    #[test]
    fn tokens_of_zeros_have_no_relative_magnitudes() {
        let mut sample = TokenSample::new(4, 1);
        sample.add(&[0.0; 8]);
        let statistics = ActivationStatistics::new(&sample);
        assert_eq!((statistics.tokens, statistics.relative.count(), statistics.token_max.count()), (2, 0, 2));
        assert!(statistics.rounding_errors.iter().all(|&(_, error)| error == 0.0));
    }

    #[test]
    fn no_tokens() {
        let statistics = ActivationStatistics::new(&TokenSample::new(4, 1));
        assert_eq!((statistics.tokens, statistics.token_max.octaves().len()), (0, 0));
    }
}
