//! Formats against tables made by other implementations, solvers against plain references.

mod formats;
mod gptq;
mod hessian;
mod matrix;
mod pack;
mod rtn;
mod threads;
mod tokens;

use zqc_numerics::{Format, ScaleSearch};

/// Reproducible random numbers: a linear congruential generator with Knuth's MMIX constants.
struct Random(u64);

impl Random {
    /// The next number, uniform in -1..1.
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `len` numbers, roughly normal.
    fn normal(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (0..6).map(|_| self.uniform()).sum::<f32>() * 0.7).collect()
    }

    /// Activations `[t, k]` whose features are correlated and of different sizes.
    fn activations(&mut self, t: usize, k: usize) -> Vec<f32> {
        let mut x = self.normal(t * k);
        for token in x.chunks_exact_mut(k) {
            for i in 1..k {
                token[i] = 0.8 * token[i - 1] + token[i] * (1.0 + (i % 7) as f32 / 3.0);
            }
        }
        x
    }
}

/// The `f32` values of a little-endian table.
fn floats(table: &[u8]) -> Vec<f32> {
    table.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// The scale of a group of weights in `f64`, straight from the definition of [`ScaleSearch`].
fn scale(format: Format, scale_search: ScaleSearch, weight: &[f64], importance: &[f64]) -> f64 {
    let largest = weight.iter().fold(0.0f64, |max, w| max.max(w.abs()));
    let widest = if largest == 0.0 { 1.0 } else { largest / f64::from(format.max()) };
    let error = |scale: f64| -> f64 {
        let rounded = |w: f64| f64::from(format.round((w / scale) as f32)) * scale;
        weight.iter().zip(importance).map(|(&w, importance)| importance * (w - rounded(w)).powi(2)).sum()
    };
    let ratios = if scale_search == ScaleSearch::Max { 0..0 } else { 0..25 };
    ratios
        .map(|step| widest * (0.55 + 0.025 * f64::from(step)))
        .fold(widest, |best, scale| if error(scale) < error(best) { scale } else { best })
}
