//! How far the predictions of a model are from those of another one on the same text, token by token.
//!
//! Both models see the same tokens, so that what they have in common cancels: the standard error of a paired difference is many
//! times smaller than that of either perplexity. Standard errors take tokens as independent, as those of llama.cpp do.

use rayon::prelude::*;
use serde::Serialize;

/// The prediction of a token by a model.
struct Prediction<'l> {
    logits: &'l [f32],
    max: f32,
    /// `ln` of the sum of `exp(logit - max)`.
    ln_sum: f64,
}

impl<'l> Prediction<'l> {
    fn new(logits: &'l [f32]) -> Self {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
        Self { logits, max, ln_sum: sum.ln() }
    }

    /// The log-probability of a logit, in nats.
    fn ln_probability(&self, logit: f32) -> f64 {
        f64::from(logit - self.max) - self.ln_sum
    }

    /// `-ln` of the probability of a token; infinite for one that is not in the vocabulary.
    fn nll(&self, token: i64) -> f64 {
        let chosen = usize::try_from(token).ok().and_then(|token| self.logits.get(token));
        chosen.map_or(f64::INFINITY, |&logit| -self.ln_probability(logit))
    }

    fn top(&self) -> Option<usize> {
        self.logits.iter().position(|&logit| logit == self.max)
    }

    /// The Kullback-Leibler divergence of `other` from this, in nats.
    fn kl(&self, other: &Self) -> f64 {
        let term = |(&logit, &others): (&f32, &f32)| {
            let ln = self.ln_probability(logit);
            let probability = ln.exp();
            if probability > 0.0 { probability * (ln - other.ln_probability(others)) } else { 0.0 }
        };
        self.logits.iter().zip(other.logits).map(term).sum()
    }
}

/// The sum of `-ln softmax(logits)[token]` over the tokens, in nats.
pub(super) fn nll(rows: &[&[f32]], tokens: &[i64]) -> f64 {
    let nlls = rows.par_iter().zip(tokens).map(|(row, &token)| Prediction::new(row).nll(token));
    // In order, so that the last bits do not depend on the threads.
    nlls.collect::<Vec<_>>().into_iter().sum()
}

/// What was measured of one token.
struct Token {
    /// `-ln` of its probability, by the model and by the reference.
    nll: [f64; 2],
    kl: f64,
    same_top: bool,
}

/// What was measured of the tokens so far.
#[derive(Default)]
pub(super) struct Divergences(Vec<Token>);

impl Divergences {
    /// Adds the tokens that follow each other in a window, from the rows of logits before them of the model and of the reference. The
    /// sum over them of what [`nll`] is of the model.
    pub fn add(&mut self, rows: &[&[f32]], reference: &[&[f32]], tokens: &[i64]) -> f64 {
        let known = self.0.len();
        let token = |((row, reference), &token): ((&&[f32], &&[f32]), &i64)| {
            let [model, reference] = [row, reference].map(|row| Prediction::new(row));
            Token {
                nll: [&model, &reference].map(|prediction| prediction.nll(token)),
                kl: reference.kl(&model),
                same_top: model.top() == reference.top(),
            }
        };
        self.0.par_extend(rows.par_iter().zip(reference).zip(tokens).map(token));
        self.0[known..].iter().map(|token| token.nll[0]).sum()
    }

    /// The model beside the reference of this path.
    pub fn comparison(&self, reference: String) -> Comparison {
        let of = |value: &dyn Fn(&Token) -> f64| Estimate::of(self.0.iter().map(value));
        let change = |token: &Token| {
            let [model, reference] = token.nll.map(|nll| (-nll).exp());
            (model - reference).powi(2)
        };
        Comparison {
            reference,
            perplexity: of(&|token| token.nll[1]).mean.exp(),
            ln_ratio: of(&|token| token.nll[0] - token.nll[1]),
            kl: Distribution::of(self.0.iter().map(|token| token.kl).collect()),
            same_top: of(&|token| f64::from(u8::from(token.same_top))),
            rms_probability_change: of(&change).mean.sqrt(),
        }
    }
}

/// A model beside a reference, on the same tokens.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The reference's path; empty where it is the source of a compilation.
    pub reference: String,
    /// Its perplexity.
    pub perplexity: f64,
    /// `ln` of the ratio of the model's perplexity to that of the reference.
    pub ln_ratio: Estimate,
    /// The Kullback-Leibler divergence of the model's prediction of a token from that of the reference, in nats.
    pub kl: Distribution,
    /// The share of tokens for which both find the same one most likely.
    pub same_top: Estimate,
    /// The root of the mean square of what the probability of the right token changes by.
    pub rms_probability_change: f64,
}

/// A mean over tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
}

impl Estimate {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let count = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / count;
        let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        Self { mean, error: (variance / count).sqrt() }
    }
}

/// How a measure of tokens is distributed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distribution {
    /// The mean with its standard error.
    #[serde(flatten)]
    pub mean: Estimate,
    /// The median.
    pub median: f64,
    /// What 99 % of the tokens stay below.
    pub percentile_99: f64,
    /// What 99.9 % of the tokens stay below.
    pub percentile_99_9: f64,
    /// The largest.
    pub max: f64,
}

impl Distribution {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let mean = Estimate::of(values.iter().copied());
        // Between the two values beside it, in proportion.
        let quantile = |share: f64| {
            let place = share * (values.len() - 1) as f64;
            let [below, above] = [place.floor(), place.ceil()].map(|place| values[place as usize]);
            below + (above - below) * place.fract()
        };
        Self {
            mean,
            median: quantile(0.5),
            percentile_99: quantile(0.99),
            percentile_99_9: quantile(0.999),
            max: quantile(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_model_has_the_entropy_of_its_vocabulary() {
        assert!((Prediction::new(&[3.0; 8]).nll(5) - 8f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let expected = (1.0 + (-1f64).exp()).ln();
        assert!((Prediction::new(&[1000.0, 999.0]).nll(0) - expected).abs() < 1e-6);
    }

    #[test]
    fn a_token_that_is_not_in_the_vocabulary_is_impossible() {
        assert_eq!([-1, 2].map(|token| Prediction::new(&[0.0, 0.0]).nll(token)), [f64::INFINITY; 2]);
    }

    /// Logits of probabilities.
    fn row(probabilities: [f64; 3]) -> [f32; 3] {
        probabilities.map(|p| p.ln() as f32 + 7.0)
    }

    #[test]
    fn predictions_are_compared_token_by_token() {
        let (certain, even) = (row([0.5, 0.25, 0.25]), row([1.0 / 3.0; 3]));
        let mut divergences = Divergences::default();
        divergences.add(&[&even, &certain], &[&certain, &certain], &[0, 1]);
        let found = divergences.comparison("float.onnx".to_string());
        // By hand: the first token's divergence is 0.5 ln 1.5 + 2 x 0.25 ln 0.75, the second one's 0.
        let kl = 0.5 * 1.5f64.ln() + 0.5 * 0.75f64.ln();
        assert!((found.kl.mean.mean - kl / 2.0).abs() < 1e-7 && (found.kl.max - kl).abs() < 1e-7);
        assert!((found.kl.median - kl / 2.0).abs() < 1e-7);
        let ratio = 1.5f64.ln();
        assert!((found.ln_ratio.mean - ratio / 2.0).abs() < 1e-7);
        assert!((found.ln_ratio.error - ratio / 2.0).abs() < 1e-7, "two values: half of what they differ by");
        assert!((found.perplexity - 8f64.sqrt()).abs() < 1e-6, "of 1/2 and 1/4");
        assert_eq!(found.same_top.mean, 1.0, "where all are alike, the first is the top");
        let change = ((0.5f64 - 1.0 / 3.0).powi(2) / 2.0).sqrt();
        assert!((found.rms_probability_change - change).abs() < 1e-7);
    }

    #[test]
    fn a_model_is_nowhere_from_itself() {
        let row = row([0.7, 0.2, 0.1]);
        let mut divergences = Divergences::default();
        let row: &[f32] = &row;
        divergences.add(&[row; 4], &[row; 4], &[0, 1, 2, 0]);
        let found = divergences.comparison(String::new());
        assert_eq!((found.ln_ratio, found.kl.max), (Estimate { mean: 0.0, error: 0.0 }, 0.0));
        assert_eq!((found.same_top.mean, found.rms_probability_change), (1.0, 0.0));
    }

    /// What cannot be after the reference and can be after the model costs nothing; the other way round it costs all.
    #[test]
    fn impossible_tokens_are_no_nan() {
        let (some, all) = ([0.0, f32::NEG_INFINITY], [0.0, 0.0]);
        let kl = |one: &[f32], other: &[f32]| Prediction::new(one).kl(&Prediction::new(other));
        assert!((kl(&some, &all) - 2f64.ln()).abs() < 1e-12);
        assert_eq!(kl(&all, &some), f64::INFINITY);
    }

    #[test]
    fn quantiles_lie_between_the_values_beside_them() {
        let found = Distribution::of((0..=1000).rev().map(f64::from).collect());
        assert_eq!((found.median, found.percentile_99, found.percentile_99_9), (500.0, 990.0, 999.0));
        let found = Distribution::of(vec![1.0, 0.0]);
        assert_eq!((found.median, found.percentile_99), (0.5, 0.99));
    }
}
