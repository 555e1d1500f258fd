//! Rounding to the values of a format, without going through codes.

/// The finite values of a format, as rounding sees them: evenly spaced by `2^(e - mantissa_bits)` within the binade of
/// exponent `e`, and evenly spaced by the smallest such step below `2^min_exponent`.
///
/// An integer format is the case where every value lies below `2^min_exponent` and the step is 1.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Explicit mantissa bits.
    pub mantissa_bits: u32,
    /// Exponent of the smallest normal value.
    pub min_exponent: i32,
    /// Smallest value.
    pub min: f32,
    /// Largest value, the one that scales are computed against.
    pub max: f32,
    /// What NaN becomes: NaN where the format has one, else 0.
    pub nan: f32,
}

const EXPONENT_MASK: u32 = 0x7F80_0000;

impl Grid {
    /// Rounds to the nearest value, ties to the even significand, saturating.
    ///
    /// Adding and subtracting `2^(e + 23 - mantissa_bits)` makes the FPU round at the step of binade `e`. When
    /// `mantissa_bits` is 0, every significand is odd and a tie goes to the larger magnitude (IEEE 754-2019, 4.3.1).
    #[inline(always)]
    pub fn round(self, x: f32) -> f32 {
        let clamped = if x < self.min {
            self.min
        } else if x > self.max {
            self.max
        } else {
            x
        };
        let magic = f32::from_bits(self.binade(clamped) + ((23 - self.mantissa_bits) << 23));
        let magnitude = (clamped.abs() + magic) - magic;
        if x.is_nan() { self.nan } else { magnitude.copysign(clamped) }
    }

    /// The bits of `2^e`, `e` being the exponent of the binade whose step rounds `x`.
    #[inline(always)]
    pub fn binade(self, x: f32) -> u32 {
        let min_binade = ((127 + self.min_exponent) as u32) << 23;
        (x.to_bits() & EXPONENT_MASK).max(min_binade)
    }
}

/// The largest magnitude of `values`, 0 of none; NaN if one is NaN.
///
/// Magnitudes are compared as integers, which orders them alike and vectorises.
#[inline(always)]
pub fn max_abs(values: &[f32]) -> f32 {
    f32::from_bits(values.iter().fold(0, |max, v| max.max(v.to_bits() & !(1 << 31))))
}

/// The smallest and the largest of `values` and 0; NaN where one is NaN.
///
/// Values are compared as the integers that order like them, which vectorises.
#[inline(always)]
pub fn range(values: &[f32]) -> (f32, f32) {
    let ordered = |bits: i32| bits ^ (bits >> 31 & i32::MAX);
    let (low, high) = values.iter().fold((0, 0), |(low, high): (i32, i32), v| {
        let value = ordered(v.to_bits() as i32);
        (low.min(value), high.max(value))
    });
    let float = |value: i32| f32::from_bits(ordered(value) as u32);
    (float(low), float(high))
}

/// The nearest integer, ties to even, never -0; for magnitudes below 2^22. NaN and infinity stay.
///
/// The FPU rounds in the addition, which vectorises; `f32::round_ties_even` calls a function of the C library.
#[inline(always)]
pub fn round_to_integer(x: f32) -> f32 {
    const MAGIC: f32 = 1.5 * (1 << 23) as f32;
    (x + MAGIC) - MAGIC
}
