//! Solvers against plain references.

mod constraint;
mod correction;
mod gptq;
mod hessian;
mod lorc;
mod lut4;
mod rtn;
mod threads;

use zqc_formats::{Format, WeightFormat};
use zqc_solvers::{Grouping, Hessian, ScaleConstraint, ScaleSearch};

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

/// Every way in which a solver codes weights.
fn weight_formats() -> Vec<WeightFormat> {
    let integers = [Format::Int4, Format::Int8].map(|format| WeightFormat { format, asymmetric: true });
    Format::ALL.into_iter().map(WeightFormat::from).chain(integers).collect()
}

/// The scale and the zero point of a group of weights in `f64`, straight from the definition of [`ScaleSearch`].
fn scale(format: WeightFormat, search: ScaleSearch, weight: &[f64], importance: &[f64]) -> (f64, f64) {
    let WeightFormat { format, asymmetric } = format;
    let low = weight.iter().fold(0.0, |low: f64, &w| low.min(w));
    let high = weight.iter().fold(0.0, |high: f64, &w| high.max(w));
    let least = f64::from(format.codebook().into_iter().filter(|v| v.is_finite()).fold(0.0, f32::min));
    let max = f64::from(format.max());
    let widest = if asymmetric { (high - low) / (max - least) } else { high.max(-low) / max };
    if widest == 0.0 && format == Format::Lut4 {
        return (f64::from(1e-30f32), 0.0);
    }
    let widest = if widest == 0.0 { 1.0 } else { widest };
    let zero = if asymmetric { (least - low / widest).round_ties_even() } else { 0.0 };
    let error = |scale: f64| -> f64 {
        let rounded = |w: f64| (f64::from(format.round((w / scale + zero) as f32)) - zero) * scale;
        weight.iter().zip(importance).map(|(&w, importance)| importance * (w - rounded(w)).powi(2)).sum()
    };
    let ratios =
        if search == ScaleSearch::Max { 0..0 } else { 0..if format == Format::E2M1 { 43 } else { 25 } };
    let scale = ratios
        .map(|step| widest * (0.55 + 0.025 * f64::from(step)))
        .fold(widest, |best, scale| if error(scale) < error(best) { scale } else { best });
    (scale, zero)
}

/// Groups whose scales are not constrained.
fn free(format: impl Into<WeightFormat>, group_size: usize, scale_search: ScaleSearch) -> Grouping {
    Grouping { format: format.into(), group_size, scale_search, constraint: ScaleConstraint::None }
}

/// The Hessian of activations `x` `[T, K]`.
fn hessian_of(x: &[f32], k: usize) -> Hessian {
    let mut hessian = Hessian::new(k);
    hessian.accumulate(x);
    hessian
}
