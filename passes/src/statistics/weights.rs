//! How weights lie on the grid of their number format.

use rayon::prelude::*;
use zqc_formats::{Format, QuantizedMatrix};

/// The weights of a layer as its number format sees them, `w / scale + zero point` of their group, counted in bins of
/// equal width.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightHistogram {
    /// The number format of the codes.
    pub format: Format,
    /// Weights in each bin, from `-limit` to `limit`.
    pub counts: Vec<u64>,
    /// Weights further out.
    pub beyond: u64,
}

impl WeightHistogram {
    /// The number of bins. In E2M1 a bin is a quarter wide, so that what rounds to one value is a number of whole bins.
    pub const BINS: usize = 64;

    /// Counts the `weight` `[N, K]` that became `matrix`.
    pub fn new(weight: &[f32], matrix: &QuantizedMatrix) -> Self {
        let groups = matrix.groups();
        let scales = matrix.scales.of_groups();
        let zero = |group: usize| matrix.zero_points.as_ref().map_or(0.0, |zeros| f32::from(zeros[group]));
        let limit = limit(matrix.format);
        let bins_per_unit = Self::BINS as f32 / (2.0 * limit);
        let bin = |value: f32| {
            let place = (value + limit) * bins_per_unit;
            if (0.0..Self::BINS as f32).contains(&place) { place as usize } else { Self::BINS }
        };
        let rows = weight.par_chunks(matrix.cols).enumerate();
        let counts = rows.fold(empty, |mut counts, (row, weight)| {
            for (group, weight) in (row * groups..).zip(weight.chunks(matrix.group_size)) {
                let (scale, zero) = (scales[group], zero(group));
                weight.iter().for_each(|w| counts[bin(w / scale + zero)] += 1);
            }
            counts
        });
        let mut counts = counts.reduce(empty, |mut sum, part| {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            sum
        });
        let beyond = counts.pop().unwrap_or(0);
        Self { format: matrix.format, counts, beyond }
    }

    /// Counts others in, of the same format.
    pub(crate) fn add(&mut self, others: &Self) {
        self.counts.iter_mut().zip(&others.counts).for_each(|(sum, count)| *sum += count);
        self.beyond += others.beyond;
    }

    /// Where the last bin ends; the first begins at its negative.
    pub fn limit(&self) -> f32 {
        limit(self.format)
    }
}

/// A third beyond the largest value: a scale search lets weights saturate.
fn limit(format: Format) -> f32 {
    format.max() * 4.0 / 3.0
}

/// The bins, and one for what lies beyond them.
fn empty() -> Vec<u64> {
    vec![0; WeightHistogram::BINS + 1]
}

#[cfg(test)]
mod tests {
    use zqc_formats::WeightFormat;
    use zqc_solvers::{Grouping, ScaleConstraint, rtn};

    use super::*;

    /// A spread of weights with a few far out, `[5, 37]`.
    fn weight() -> Vec<f32> {
        (0..5 * 37u32).map(|i| ((i * 7919 % 613) as f32 / 613.0 - 0.5).powi(3)).collect()
    }

    fn naive(weight: &[f32], matrix: &QuantizedMatrix) -> (Vec<u64>, u64) {
        let (limit, scales) = (matrix.format.max() * 4.0 / 3.0, matrix.scales.of_groups());
        let (mut counts, mut beyond) = (vec![0; 64], 0);
        for (at, w) in weight.iter().enumerate() {
            let group = at / matrix.cols * matrix.groups() + at % matrix.cols / matrix.group_size;
            let zero = matrix.zero_points.as_ref().map_or(0.0, |zeros| f32::from(zeros[group]));
            let value = w / scales[group] + zero;
            match ((value + limit) * (32.0 / limit)).floor() {
                bin if (0.0..64.0).contains(&bin) => counts[bin as usize] += 1,
                _ => beyond += 1,
            }
        }
        (counts, beyond)
    }

    fn grouping(format: WeightFormat, group_size: usize) -> Grouping {
        Grouping { format, group_size, constraint: ScaleConstraint::None, ..Grouping::default() }
    }

    #[test]
    fn every_weight_is_counted_where_its_group_puts_it() {
        let weight = weight();
        let symmetric = [Format::E2M1, Format::Int4].map(WeightFormat::from);
        let asymmetric = WeightFormat { format: Format::Int4, asymmetric: true };
        for format in symmetric.into_iter().chain([asymmetric]) {
            for group_size in [0, 8] {
                let matrix = rtn(&weight, 5, 37, &grouping(format, group_size)).unwrap();
                let histogram = WeightHistogram::new(&weight, &matrix);
                let WeightHistogram { counts, beyond, .. } = &histogram;
                assert_eq!((counts, beyond), (&naive(&weight, &matrix).0, &naive(&weight, &matrix).1));
                assert_eq!(counts.iter().sum::<u64>() + beyond, weight.len() as u64);
            }
        }
    }

    #[test]
    fn saturating_weights_lie_beyond_the_largest_value() {
        let mut matrix = rtn(&[6.0, 1.0, -7.0, 90.0], 1, 4, &grouping(Format::E2M1.into(), 0)).unwrap();
        matrix.scales = zqc_formats::Scales::Grouped(vec![1.0]);
        let histogram = WeightHistogram::new(&[6.0, 1.0, -7.0, 90.0], &matrix);
        let bin = |value: f32| histogram.counts[((value + histogram.limit()) * 4.0) as usize];
        assert_eq!([bin(6.0), bin(1.0), bin(-7.0)], [1; 3]);
        assert_eq!(histogram.beyond, 1);
    }
}
