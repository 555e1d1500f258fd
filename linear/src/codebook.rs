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
    /// In bfloat16, what leaves the bits of a weight once [`below`] is subtracted: for factors of a ladder that are powers of two, and
    /// for others; of [`Ladder::M8`] for all steps.
    pub minuends: [[u16; 16]; 2],
    /// The values as multiples of the unit, if there is one.
    pub multiples: [i8; 16],
    /// The least magnitude but 0 where it divides all values, which makes it a power of two; else 0.
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
        let magnitudes = values.iter().map(|value| value.abs()).filter(|value| *value > 0.0);
        let least = magnitudes.fold(f32::INFINITY, f32::min);
        let unit = if values.iter().all(|value| value % least == 0.0) { least } else { 0.0 };
        Self {
            values,
            low: halves.map(|half| half as u8),
            high: halves.map(|half| (half >> 8) as u8),
            halves,
            minuends: match ladder {
                None | Some(Ladder::M8) => [halves; 2],
                Some(ladder) => [minuends(1.0), minuends(ladder.factor(0))],
            },
            multiples: values.map(|value| (value / unit) as i8),
            unit,
        }
    }
}

/// What makes the weight of a step of a value: a factor under M2 and M3; under M8 a float whose bits are subtracted from those of the
/// value.
pub(crate) fn operand(ladder: Ladder, step: u8) -> f32 {
    match ladder {
        Ladder::M2 | Ladder::M3 => ladder.factor(step),
        Ladder::M8 => f32::from_bits(1.0f32.to_bits() - ladder.apply(1.0, step).to_bits()),
    }
}

/// What is subtracted from [`Codebook::minuends`], given the [`operand`] of a step.
pub(crate) fn below(ladder: Ladder, operand: f32) -> u16 {
    match ladder {
        Ladder::M2 | Ladder::M3 => below_two(operand),
        Ladder::M8 => bf16_bits(operand),
    }
}

/// Whether the second of [`Codebook::minuends`] is the one to subtract from.
pub(crate) fn is_second(ladder: Ladder, operand: f32) -> bool {
    ladder != Ladder::M8 && !below_two(operand).is_multiple_of(128)
}

/// By how much the bits of a factor of a ladder, in bfloat16, are less than those of 2.
fn below_two(factor: f32) -> u16 {
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
    fn a_subtraction_of_bits_makes_the_weight_of_a_step() {
        for ladder in Ladder::ALL {
            for format in Format::ALL.into_iter().filter(|&format| ladder.max_shift(format).is_some()) {
                let codebook = Codebook::new(format, Some(ladder));
                for step in 0..16 {
                    let operand = operand(ladder, step);
                    let minuends = codebook.minuends[usize::from(is_second(ladder, operand))];
                    for (minuend, value) in minuends.into_iter().zip(codebook.values) {
                        let weight = minuend.saturating_sub(below(ladder, operand));
                        assert_eq!(
                            f32::from_bits(u32::from(weight) << 16),
                            ladder.apply(value, step),
                            "{value} at step {step} of {ladder}"
                        );
                    }
                }
            }
        }
    }
}
