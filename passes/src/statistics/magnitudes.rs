//! Magnitudes over all of the range of `f32`.

/// How many values have which magnitude, in bins a sixteenth of an octave wide.
#[derive(Debug, Clone, PartialEq)]
pub struct MagnitudeHistogram {
    counts: Vec<u64>,
}

/// Values between a power of two and the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Octave {
    /// The power of two; 0 for what is smaller than every normal number.
    pub at_least: f32,
    /// How many values.
    pub count: u64,
}

impl Default for MagnitudeHistogram {
    /// No values.
    fn default() -> Self {
        Self { counts: vec![0; 1 << (u32::BITS - 1 - Self::DROPPED_BITS)] }
    }
}

impl MagnitudeHistogram {
    /// Bits of an `f32` that do not matter: a bin is named by the exponent and the first four bits of the mantissa.
    const DROPPED_BITS: u32 = 19;
    const BINS_PER_OCTAVE: usize = 16;

    /// Counts a value by its magnitude.
    #[inline]
    pub fn add(&mut self, value: f32) {
        self.counts[(value.abs().to_bits() >> Self::DROPPED_BITS) as usize] += 1;
    }

    /// Counts the values of `other` too.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The magnitude that the part `share` of the values, 0 to 1, does not exceed, to a sixteenth of an octave; 0 of no
    /// values.
    pub fn quantile(&self, share: f64) -> f32 {
        let mut left = share * self.count() as f64;
        for (bin, &count) in self.counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
            if left <= count as f64 {
                let place = bin as f64 + left / count as f64;
                return f32::from_bits((place * f64::from(1 << Self::DROPPED_BITS)) as u32);
            }
            left -= count as f64;
        }
        0.0
    }

    /// The octaves from the smallest value to the largest.
    pub fn octaves(&self) -> Vec<Octave> {
        let counts = self.counts.chunks(Self::BINS_PER_OCTAVE).map(|bins| bins.iter().sum());
        let octaves = counts.enumerate().map(|(exponent, count)| Octave {
            at_least: f32::from_bits(((exponent * Self::BINS_PER_OCTAVE) as u32) << Self::DROPPED_BITS),
            count,
        });
        let octaves: Vec<Octave> = octaves.skip_while(|octave| octave.count == 0).collect();
        let end = octaves.iter().rposition(|octave| octave.count > 0).map_or(0, |last| last + 1);
        octaves[..end].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[f32]) -> MagnitudeHistogram {
        let mut histogram = MagnitudeHistogram::default();
        values.iter().for_each(|&value| histogram.add(value));
        histogram
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut values: Vec<f32> =
            (0..10_000u32).map(|i| (i * 7919 % 10_007) as f32).map(|v| v.powi(3)).collect();
        let histogram = histogram(&values);
        values.sort_by(f32::total_cmp);
        for share in [0.1, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let exact = values[(share * 9_999.0) as usize];
            assert!((histogram.quantile(share) / exact - 1.0).abs() < 1.0 / 16.0, "{share}");
        }
    }

    #[test]
    fn octaves_run_from_the_smallest_to_the_largest() {
        let octaves = histogram(&[1.0, -1.9, 8.0, 7.9]).octaves();
        let octaves: Vec<_> = octaves.iter().map(|octave| (octave.at_least, octave.count)).collect();
        assert_eq!(octaves, [(1.0, 2), (2.0, 0), (4.0, 1), (8.0, 1)]);
        assert_eq!(histogram(&[0.0]).octaves(), [Octave { at_least: 0.0, count: 1 }]);
    }

    #[test]
    fn no_values() {
        assert_eq!(histogram(&[]).quantile(0.5), 0.0);
        assert_eq!(histogram(&[]).octaves(), []);
    }

    #[test]
    fn merged_histograms_are_the_histogram_of_all() {
        let mut left = histogram(&[1.0, 2.0]);
        left.merge(&histogram(&[0.1, 2.0]));
        assert_eq!(left, histogram(&[1.0, 2.0, 0.1, 2.0]));
    }
}
