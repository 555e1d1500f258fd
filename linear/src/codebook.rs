//! The values of codes of 4 bits, as vectors look them up.

use zqc_formats::{Format, Ladder};

/// Values of 16 codes, and what follows from them. All are exact in bfloat16.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Codebook {
    /// The values.
    pub values: [f32; 16],
    /// The low bytes of the values in bfloat16.
    pub low: [u8; 16],
    /// The high bytes of the values in bfloat16.
    pub high: [u8; 16],
    /// The values in bfloat16.
    pub halves: [u16; 16],
    /// In bfloat16, what leaves the bits of a value times a factor of a ladder once [`below_two`] is subtracted: for factors that
    /// are powers of two, and for others.
    pub minuends: [[u16; 16]; 2],
    /// The values as multiples of the unit.
    pub multiples: [i8; 16],
    /// The least magnitude but 0: a power of two that divides all values.
    pub unit: f32,
}

impl Codebook {
    /// Of codes that there are none of.
    pub(crate) const NONE: Self = Self {
        values: [0.0; 16],
        low: [0; 16],
        high: [0; 16],
        halves: [0; 16],
        minuends: [[0; 16]; 2],
        multiples: [0; 16],
        unit: 1.0,
    };

    /// Of a format of 4 bits whose values are multiplied by the factors of a ladder, if there is one.
    pub(crate) fn new(format: Format, ladder: Option<Ladder>) -> Self {
        let values: [f32; 16] = std::array::from_fn(|code| format.decode(code as u8));
        let halves = values.map(bf16_bits);
        let minuends = |factor: f32| values.map(|value| minuend(value, factor));
        let octave = ladder.map_or(&[1.0][..], Ladder::octave);
        let magnitudes = values.iter().map(|value| value.abs()).filter(|value| *value > 0.0);
        let unit = magnitudes.fold(f32::INFINITY, f32::min);
        Self {
            values,
            low: halves.map(|half| half as u8),
            high: halves.map(|half| (half >> 8) as u8),
            halves,
            minuends: [minuends(1.0), minuends(octave[0])],
            multiples: values.map(|value| (value / unit) as i8),
            unit,
        }
    }
}

/// By how much the bits of a factor of a ladder, in bfloat16, are less than those of 2.
pub(crate) fn below_two(factor: f32) -> u16 {
    bf16_bits(2.0) - bf16_bits(factor)
}

/// The bits of `value * factor` and [`below_two`]. They depend on whether the factor is a power of two, and on nothing else of it:
/// the significand of a value is 1 or 3/2, and to that of 3/2 times 5/4 or 3/2, 1/8 is missing where significands are added.
fn minuend(value: f32, factor: f32) -> u16 {
    // A 0 stays 0, whatever is subtracted and saturates.
    if value == 0.0 { 0 } else { bf16_bits(value * factor) + below_two(factor) }
}

/// The bits of a value that is exact in bfloat16.
#[inline(always)]
pub(crate) fn bf16_bits(value: f32) -> u16 {
    (value.to_bits() >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subtraction_of_bits_multiplies_by_a_factor() {
        for ladder in Ladder::ALL {
            for format in Format::ALL.into_iter().filter(|&format| ladder.max_shift(format).is_some()) {
                let codebook = Codebook::new(format, Some(ladder));
                for factor in (0..16).map(|shift| ladder.factor(shift)) {
                    let minuends = codebook.minuends[usize::from(!below_two(factor).is_multiple_of(128))];
                    for (minuend, value) in minuends.into_iter().zip(codebook.values) {
                        let product = minuend.saturating_sub(below_two(factor));
                        assert_eq!(
                            f32::from_bits(u32::from(product) << 16),
                            value * factor,
                            "{value} * {factor}"
                        );
                    }
                }
            }
        }
    }
}
