//! Probabilities of logits.

/// The natural logarithms of the probabilities of `logits`.
pub(crate) fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - max).exp())).sum();
    let ln_sum = max + sum.ln() as f32;
    logits.iter().map(|logit| logit - ln_sum).collect()
}
