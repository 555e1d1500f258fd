//! The calibration tokens that reach an input of linear layers: most are summed up in a Hessian; where there are few, some
//! are held out.

use zqc_solvers::{HeldOut, Hessian};

/// Of all tokens, this many eighths are solved on where tokens are few; the last eighth is held out.
const FITTED_EIGHTHS: usize = 7;

/// With fewer tokens than this many times the input features, tokens are few: GPTQ may then fit its updates to the noise of
/// the Hessian. SmolLM2-135M and MiniLM gain by what is done about that at 1.3 times, and lose at 2.7 times.
const FEW: usize = 2;

/// Calibration tokens `[T, K]`.
///
/// Where they are few, correlations between features are shrunk towards what is certain of them, and the last eighth of the
/// tokens is held out, to decide between GPTQ and rounding to nearest.
pub(super) struct CalibrationTokens {
    hessian: Hessian,
    /// Tokens that are not summed up yet: every accumulation touches all `K²` sums, so short samples wait for each other.
    waiting: Vec<f32>,
    held_out: HeldOut,
}

impl CalibrationTokens {
    /// Tokens that are accumulated together.
    const BLOCK: usize = 2048;

    /// No token yet, of `k` features.
    pub(super) fn new(k: usize) -> Self {
        Self { hessian: Hessian::new(k), waiting: Vec::new(), held_out: HeldOut::new(k) }
    }

    /// Adds the tokens `x` `[..., K]` of calibration sample `sample` of `samples`; they come in order.
    pub(super) fn add(&mut self, x: &[f32], sample: usize, samples: usize) {
        let k = self.hessian.k();
        let tokens = x.len() / k;
        let fitted = fitted(tokens, sample, samples);
        let (fit, rest) =
            if self.are_few(self.fitted() + fitted) { x.split_at(fitted * k) } else { (x, &[][..]) };
        self.held_out.add(rest);
        self.waiting.extend_from_slice(fit);
        if self.waiting.len() >= Self::BLOCK * k {
            self.finish();
        }
    }

    /// Sums up what waits; to be called once all tokens have come.
    pub(super) fn finish(&mut self) {
        self.hessian.accumulate(&std::mem::take(&mut self.waiting));
    }

    /// Adds the tokens of another input.
    pub(super) fn merge(&mut self, other: &Self) {
        self.hessian.merge(&other.hessian);
        self.held_out.add(other.held_out.values());
    }

    /// Makes the Hessian one to solve on.
    pub(super) fn prepare(mut self) -> Self {
        if self.are_few(self.hessian.tokens()) {
            self.hessian.shrink_correlations();
        } else {
            // Inputs of a shared weight may have few tokens each, and enough together.
            self.hessian.accumulate(self.held_out.values());
            self.held_out = HeldOut::new(self.hessian.k());
        }
        self
    }

    /// What weights are solved on.
    pub(super) fn hessian(&self) -> &Hessian {
        &self.hessian
    }

    /// The tokens that decide between GPTQ and rounding to nearest; `None` where there are enough tokens to trust GPTQ.
    pub(super) fn held_out(&self) -> Option<&HeldOut> {
        self.are_few(self.hessian.tokens()).then_some(&self.held_out)
    }

    /// All tokens, those held out included.
    pub(super) fn count(&self) -> usize {
        self.hessian.tokens() + self.held_out.tokens()
    }

    fn fitted(&self) -> usize {
        self.hessian.tokens() + self.waiting.len() / self.hessian.k()
    }

    /// Whether tokens are few, when there are so many of them to fit.
    fn are_few(&self, fitted: usize) -> bool {
        8 * fitted < FITTED_EIGHTHS * FEW * self.hessian.k()
    }
}

/// How many of the `tokens` of a sample, from its first on, belong to the first seven eighths of all samples, which are
/// taken to be equally long.
fn fitted(tokens: usize, sample: usize, samples: usize) -> usize {
    let eighths = (FITTED_EIGHTHS * samples).saturating_sub(8 * sample).min(8);
    (tokens * eighths).div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens fitted and held out of samples of so many tokens each.
    fn split(samples: &[usize], k: usize) -> (usize, usize) {
        let mut all = CalibrationTokens::new(k);
        for (at, &tokens) in samples.iter().enumerate() {
            all.add(&vec![1.0; tokens * k], at, samples.len());
        }
        all.finish();
        let all = all.prepare();
        (all.hessian().tokens(), all.held_out().map_or(0, HeldOut::tokens))
    }

    #[test]
    fn an_eighth_of_few_tokens_is_held_out() {
        assert_eq!(split(&[64], 64), (56, 8));
        assert_eq!(split(&[1; 64], 64), (56, 8));
        assert_eq!(split(&[16; 4], 64), (56, 8));
        assert_eq!(split(&[20, 20, 24], 64), (55, 9));
        assert_eq!(split(&[7], 32), (7, 0));
        assert_eq!(split(&[0, 0, 5], 32), (4, 1));
    }

    #[test]
    fn none_of_many_is() {
        assert_eq!(split(&[128], 64), (128, 0));
        assert_eq!(split(&[127], 64), (127, 0));
        assert_eq!(split(&[2048; 3], 3), (6144, 0));
        assert_eq!(split(&[126], 64), (111, 15));
    }

    #[test]
    fn few_and_few_are_enough() {
        let part = || {
            let mut part = CalibrationTokens::new(64);
            part.add(&[1.0; 64 * 64], 0, 1);
            part.finish();
            part
        };
        let mut both = part();
        both.merge(&part());
        let both = both.prepare();
        assert_eq!((both.count(), both.hessian().tokens()), (128, 128));
        assert!(both.held_out().is_none());
    }
}
