//! Calibration text that the model writes itself.
//!
//! Sampling a long sequence token by token takes a run of the model for every token. A sequence is therefore made of
//! short passages, written side by side: round `i` runs the model once on the first `i` tokens of every passage, one
//! passage after the other, and draws the next token of each. Every token is thus drawn at temperature 1 from the model
//! itself, with its passage so far as the nearest context, and a sequence costs about half as many full runs as a passage
//! has tokens. (Drawing all positions at once and repeating until nothing changes, Jacobi decoding, settles hardly
//! more than one token a round at temperature 1, and what has not settled is noise.)
//!
//! A draw is `argmax(logits + noise)` with Gumbel noise that is a pure function of seed, sample, position and token.

use rayon::prelude::*;

use crate::array::Array;

/// Why no text was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthesizeError<E> {
    /// The model failed.
    #[error(transparent)]
    Model(E),
    /// The model's output is no logits.
    #[error("the model's logits must be floats of shape {expected:?}, not an array of shape {found:?}")]
    Logits {
        /// Shape of the output.
        found: Vec<usize>,
        /// `[1, tokens, vocab]`.
        expected: [usize; 3],
    },
}

/// Draws `samples` sequences of `seq_len` token ids below `vocab` from a causal model, in passages of `passage` tokens.
///
/// `logits` runs the model on one sequence of at most `seq_len` tokens and gives `[1, tokens, vocab]`; it is called
/// `passage - 1` times a sequence. A passage starts with `bos`, or else with a token drawn uniformly. The result
/// depends on the arguments and the logits only, not on the number of threads.
///
/// # Errors
/// [`SynthesizeError::Model`] with the error of `logits`, [`SynthesizeError::Logits`] when the shape is wrong.
pub fn synthesize<E>(
    vocab: usize,
    samples: usize,
    seq_len: usize,
    bos: Option<i64>,
    seed: u64,
    passage: usize,
    logits: &mut dyn FnMut(&[i64]) -> Result<Array, E>,
) -> Result<Vec<Vec<i64>>, SynthesizeError<E>> {
    let mut sequences = Vec::new();
    for sample in 0..samples as u64 {
        let noise = Noise { key: mix(mix(seed) ^ sample) };
        let starts = (0..seq_len).step_by(passage.max(1));
        let first = |start| bos.unwrap_or_else(|| noise.uniform_token(start, vocab));
        let mut passages: Vec<Vec<i64>> = starts.map(|start| vec![first(start)]).collect();
        for _ in 1..passage.min(seq_len) {
            let written = passages.concat();
            let output = logits(&written).map_err(SynthesizeError::Model)?;
            let expected = [1, written.len(), vocab];
            let Some(rows) = output.as_f32().filter(|_| output.shape == expected) else {
                return Err(SynthesizeError::Logits { found: output.shape, expected });
            };
            let mut end = 0;
            let ends: Vec<usize> = passages
                .iter()
                .map(|tokens| {
                    end += tokens.len();
                    end
                })
                .collect();
            passages.par_iter_mut().zip(ends).enumerate().for_each(|(index, (tokens, end))| {
                let position = index * passage + tokens.len();
                if position < seq_len {
                    tokens.push(noise.draw(&rows[(end - 1) * vocab..end * vocab], position));
                }
            });
        }
        sequences.push(passages.concat());
    }
    Ok(sequences)
}

/// The noise of one sequence: a pure function of position and token.
struct Noise {
    key: u64,
}

impl Noise {
    fn bits(&self, position: usize, token: usize) -> u64 {
        mix(mix(self.key ^ position as u64) ^ token as u64)
    }

    fn uniform_token(&self, position: usize, vocab: usize) -> i64 {
        self.bits(position, 0).checked_rem(vocab as u64).unwrap_or(0) as i64
    }

    /// Standard Gumbel noise, from a uniform number strictly between 0 and 1.
    fn gumbel(&self, position: usize, token: usize) -> f32 {
        let uniform = ((self.bits(position, token) >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
        -(-uniform.ln()).ln() as f32
    }

    /// The token of the greatest noisy logit, the first of equals.
    fn draw(&self, logits: &[f32], position: usize) -> i64 {
        let mut best = (0, f32::NEG_INFINITY);
        for (token, &logit) in logits.iter().enumerate() {
            let noisy = logit + self.gumbel(position, token);
            if noisy > best.1 {
                best = (token as i64, noisy);
            }
        }
        best.0
    }
}

/// The SplitMix64 step: a bijection of 64-bit numbers that scatters neighbours.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// A model whose next token is the last one plus one.
    fn successor(vocab: usize) -> impl FnMut(&[i64]) -> Result<Array, Infallible> {
        move |tokens| {
            let mut logits = vec![-1e9f32; tokens.len() * vocab];
            for (row, &token) in logits.chunks_exact_mut(vocab).zip(tokens) {
                row[(token as usize + 1) % vocab] = 0.0;
            }
            Ok(Array::new(vec![1, tokens.len(), vocab], logits).unwrap())
        }
    }

    #[test]
    fn passages_follow_the_model_and_fill_the_sequence() {
        let mut calls = 0;
        let mut model = successor(10);
        let mut counted = |tokens: &[i64]| {
            calls += 1;
            model(tokens)
        };
        let sequences = synthesize(10, 1, 10, Some(3), 0, 4, &mut counted).unwrap();
        assert_eq!(sequences, [[3, 4, 5, 6, 3, 4, 5, 6, 3, 4]]);
        assert_eq!(calls, 3);
    }

    #[test]
    fn tokens_are_drawn_with_the_models_probabilities() {
        let mut model = |tokens: &[i64]| {
            let row = [0.7f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
            Ok::<_, Infallible>(Array::new(vec![1, tokens.len(), 3], row.repeat(tokens.len())).unwrap())
        };
        let sequences = synthesize(3, 20, 1000, Some(0), 1, 50, &mut model).unwrap();
        let drawn: Vec<i64> = sequences
            .iter()
            .flat_map(|s| s.iter().enumerate().filter(|(i, _)| i % 50 != 0).map(|(_, &x)| x))
            .collect();
        for (token, probability) in [(0, 0.7), (1, 0.2), (2, 0.1)] {
            let share = drawn.iter().filter(|&&x| x == token).count() as f64 / drawn.len() as f64;
            assert!((share - probability).abs() < 0.015, "{token}: {share}");
        }
    }

    #[test]
    fn the_seed_and_nothing_else_decides() {
        let mut uniform = |tokens: &[i64]| {
            Ok::<_, Infallible>(Array::new(vec![1, tokens.len(), 50], vec![0f32; tokens.len() * 50]).unwrap())
        };
        let mut with = |seed| synthesize(50, 2, 64, None, seed, 16, &mut uniform).unwrap();
        let first = with(5);
        assert_eq!(first, with(5));
        assert_ne!(first, with(6));
        assert_ne!(first[0], first[1]);
    }

    #[test]
    fn wrong_logits_are_an_error() {
        let error = synthesize(11, 1, 4, None, 0, 4, &mut successor(10)).unwrap_err();
        assert!(matches!(error, SynthesizeError::Logits { expected: [1, 1, 11], .. }));
        assert_eq!(synthesize(0, 1, 0, None, 0, 0, &mut successor(10)).unwrap(), [[0i64; 0]]);
    }
}
