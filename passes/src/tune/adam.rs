//! Factors on their way.

use zqc_runtime::Array;

/// How fast averages forget the gradients before.
const DECAY: [f32; 2] = [0.9, 0.99];
/// No factor leaves this range.
const RANGE: [f32; 2] = [0.5, 2.0];

/// A vector of factors under Adam (Kingma and Ba, arXiv 1412.6980).
#[derive(Debug, Clone)]
pub(super) struct Vector {
    pub values: Vec<f32>,
    moments: Vec<[f32; 2]>,
    gradient: Vec<f32>,
}

impl Vector {
    /// So many factors of 1.
    pub(super) fn new(count: usize) -> Self {
        Self { values: vec![1.0; count], moments: vec![[0.0; 2]; count], gradient: vec![0.0; count] }
    }

    /// Adds to the gradient of the step under way.
    pub(super) fn add(&mut self, gradient: &Array) {
        let gradient = gradient.as_f32().unwrap_or_default();
        self.gradient.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
    }

    /// Makes step number `step`, of the first on, at a rate of `rate`. Elements without a gradient stay.
    pub(super) fn step(&mut self, step: usize, rate: f32) {
        let unbiased = DECAY.map(|decay| 1.0 - decay.powi(step as i32));
        let elements = self.values.iter_mut().zip(&mut self.moments).zip(&mut self.gradient);
        for ((value, moments), gradient) in elements {
            let gradient = std::mem::take(gradient);
            let powers = [gradient, gradient * gradient];
            for ((moment, power), decay) in moments.iter_mut().zip(powers).zip(DECAY) {
                *moment = decay * *moment + (1.0 - decay) * power;
            }
            let [mean, square] = [moments[0] / unbiased[0], moments[1] / unbiased[1]];
            if square > 0.0 {
                *value = (*value - rate * mean / square.sqrt()).clamp(RANGE[0], RANGE[1]);
            }
        }
    }
}
