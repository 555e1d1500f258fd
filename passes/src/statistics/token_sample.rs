//! A sample of the tokens that a layer reads.

/// About [`TokenSample::SIZE`] of the tokens of an activation, evenly spread over all calibration samples: always the
/// same ones, however long the calibration.
#[derive(Debug, Clone)]
pub struct TokenSample {
    width: usize,
    samples: usize,
    /// Tokens that went by.
    seen: usize,
    values: Vec<f32>,
}

impl TokenSample {
    /// Tokens that are kept at most, or a few more.
    pub const SIZE: usize = 1024;

    /// The golden ratio's fraction of `2^64`. Its multiples, modulo `2^64`, are evenly spread over all tokens and over each
    /// position in samples of any length.
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

    /// No tokens yet, of an activation `[..., width]` that comes in `samples` parts.
    pub fn new(width: usize, samples: usize) -> Self {
        Self { width, samples, seen: 0, values: Vec::new() }
    }

    /// Takes some tokens of the activation `x` `[..., width]` of the next calibration sample.
    pub fn add(&mut self, x: &[f32]) {
        let tokens = x.len() / self.width;
        let one_in = (tokens * self.samples).div_ceil(Self::SIZE).max(1) as u64;
        for (at, token) in (self.seen as u64..).zip(x.chunks_exact(self.width)) {
            if at.wrapping_mul(Self::GOLDEN) <= u64::MAX / one_in {
                self.values.extend_from_slice(token);
            }
        }
        self.seen += tokens;
    }

    /// Values of a token.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The tokens, `[T, width]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The positions within a calibration sample of the tokens that are kept, of `samples` with `tokens` each.
    fn positions(samples: usize, tokens: usize) -> Vec<usize> {
        let mut sample = TokenSample::new(2, samples);
        let x: Vec<f32> = (0..tokens).flat_map(|token| [token as f32, -1.0]).collect();
        (0..samples).for_each(|_| sample.add(&x));
        sample.values().chunks_exact(2).map(|token| token[0] as usize).collect()
    }

    #[test]
    fn few_tokens_are_all_kept() {
        assert_eq!(positions(2, 3), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn of_many_tokens_some_are_kept_at_every_position() {
        for (samples, tokens) in [(128, 2048), (16, 1024), (1, 100_000), (3000, 7), (500, 21)] {
            let kept = positions(samples, tokens);
            assert!((TokenSample::SIZE / 2..TokenSample::SIZE + 8).contains(&kept.len()), "{}", kept.len());
            let early = kept.iter().filter(|&&position| position < tokens / 2).count();
            assert!((0.4..0.6).contains(&(early as f64 / kept.len() as f64)), "{early} of {}", kept.len());
        }
    }
}
