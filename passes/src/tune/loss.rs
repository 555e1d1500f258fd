//! The divergence of the quantized model's predictions from the float model's.

use rayon::prelude::*;
use zqc_ir::ValueId;
use zqc_runtime::{Array, Interpreter, Prepared};

use super::adam::Vector;
use crate::backpropagate::{Inputs, Loss};
use crate::pass::PassError;
use crate::softmax::log_softmax;

/// The float model, loaded.
pub(super) struct Teacher<'a> {
    interpreter: &'a Interpreter<'a>,
    prepared: Prepared<'a>,
}

impl<'a> Teacher<'a> {
    pub(super) fn new(interpreter: &'a Interpreter<'a>) -> Result<Self, PassError> {
        Ok(Self { interpreter, prepared: interpreter.prepare()? })
    }

    /// The KL divergence of `predicted`, logits `[..., V]` on a sample, from the float model's: one for each token, in nats. Into
    /// `gradient` goes that of their sum with respect to `predicted`.
    pub(super) fn divergence(
        &self,
        sample: &Inputs,
        predicted: &Array,
        gradient: Option<&mut Vec<f32>>,
    ) -> Result<Vec<f64>, PassError> {
        let feeds = sample.iter().map(|(name, array)| (name.as_str(), array.clone()));
        let taught = self.prepared.run(self.interpreter.feed(feeds))?.remove(0);
        let width = predicted.shape.last().copied().unwrap_or(1).max(1);
        let [taught, predicted] = [&taught, predicted].map(|array| array.as_f32().unwrap_or_default());
        let rows = taught.par_chunks_exact(width).zip(predicted.par_chunks_exact(width));
        let Some(gradient) = gradient else {
            return Ok(rows.map(|(taught, predicted)| divergence(taught, predicted).0).collect());
        };
        gradient.resize(predicted.len(), 0.0);
        let of_row = |((taught, predicted), gradient): ((&[f32], &[f32]), &mut [f32])| {
            let (kl, found) = divergence(taught, predicted);
            gradient.copy_from_slice(&found);
            kl
        };
        Ok(rows.zip(gradient.par_chunks_exact_mut(width)).map(of_row).collect())
    }
}

/// The KL divergence of the prediction with the second logits from that with the first, and its gradient with respect to the second:
/// the difference of the probabilities.
fn divergence(taught: &[f32], predicted: &[f32]) -> (f64, Vec<f32>) {
    let [taught, mut predicted] = [taught, predicted].map(log_softmax);
    let mut kl = 0.0;
    for (&taught, predicted) in taught.iter().zip(&mut predicted) {
        let probability = taught.exp();
        if probability > 0.0 {
            kl += f64::from(probability) * f64::from(taught - *predicted);
        }
        *predicted = predicted.exp() - probability;
    }
    (kl, predicted)
}

/// The mean of divergences.
pub(super) fn mean(found: &[f64]) -> f64 {
    found.iter().sum::<f64>() / found.len().max(1) as f64
}

/// The divergence on the samples of a step, whose gradients go to vectors of factors.
pub(super) struct Divergence<'s, 't> {
    pub samples: &'s [&'s Inputs],
    pub teacher: &'s Teacher<'t>,
    /// The inputs that have the factors, in the order of `vectors`.
    pub inputs: &'s [ValueId],
    pub vectors: &'s mut [Vector],
}

impl Loss for Divergence<'_, '_> {
    fn of_logits(&self, sample: usize, logits: &Array) -> Result<(Vec<f64>, Array), PassError> {
        let mut gradient = Vec::new();
        let losses = self.teacher.divergence(self.samples[sample], logits, Some(&mut gradient))?;
        Ok((losses, Array { shape: logits.shape.clone(), data: gradient.into() }))
    }

    fn take(&mut self, _: usize, value: ValueId, gradient: &Array) {
        let vector = self.inputs.iter().position(|&input| input == value);
        vector.into_iter().for_each(|at| self.vectors[at].add(gradient));
    }
}

#[cfg(test)]
mod tests {
    use super::divergence;

    #[test]
    fn the_gradient_is_that_of_differences() {
        let (taught, predicted) = ([0.5f32, -1.0, 2.0], [0.25f32, 0.5, 1.0]);
        let (kl, gradient) = divergence(&taught, &predicted);
        assert!(kl > 0.0 && divergence(&taught, &taught).0.abs() < 1e-6);
        for at in 0..3 {
            let moved = |by: f32| {
                let mut predicted = predicted;
                predicted[at] += by;
                divergence(&taught, &predicted).0
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((difference - f64::from(gradient[at])).abs() < 1e-4, "{at}: {difference} {gradient:?}");
        }
    }
}
