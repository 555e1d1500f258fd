//! The steps that groups may stand below the scale of their row.

use std::fmt;

use crate::Format;

/// How far the values of a group may stand below those of its row, in descending steps, with one, three or eight in each octave
/// (a factor of 2); named after the constraint on scales that yields them.
///
/// Every value of the format at every step, times one power of two for the whole ladder, is exact in E4M3: a
/// kernel reads the weight of a group as E4M3 from a table and is left with one factor for the row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Ladder {
    /// 1, 1/2, 1/4, ...: the shifts of ZeroQuant-FP's M2.
    #[default]
    M2,
    /// 3/2, 5/4, 1, 3/4, 5/8, 1/2, ...: the only factors between powers of two by which the significands 1 and 3/2 of E2M1
    /// stay within the three mantissa bits of E4M3.
    M3,
    /// A step is one code of E4M3: a value becomes the next smaller E4M3 value, and half of itself after eight steps. Within an octave, where
    /// E4M3's values are evenly spaced, larger values lose less in proportion; the shape of a table of values bears that, and gets
    /// the finest steps there are without leaving E4M3.
    M8,
}

/// The bits of an `f32` that one code of E4M3 is: an eighth of a binade.
const E4M3_CODE: u32 = 1 << 20;

impl Ladder {
    /// Every ladder.
    pub const ALL: [Self; 3] = [Self::M2, Self::M3, Self::M8];

    /// Steps of an octave.
    pub const fn steps_per_octave(self) -> u8 {
        match self {
            Self::M2 => 1,
            Self::M3 => 3,
            Self::M8 => 8,
        }
    }

    /// The factor of a step: exact, but for steps of [`Ladder::M8`] within an octave, which are no factor, but for some values
    /// larger and for some smaller than this, see [`Ladder::apply`].
    pub fn factor(self, step: u8) -> f32 {
        let (octaves, within) = (step / self.steps_per_octave(), step % self.steps_per_octave());
        let first = match self {
            Self::M2 => 1.0,
            Self::M3 => [1.5, 1.25, 1.0][usize::from(within)],
            Self::M8 => (f32::from(within) / -8.0).exp2(),
        };
        first * 0.5f32.powi(i32::from(octaves))
    }

    /// What a value of a format that has this ladder becomes in a group of this step, exact: `value * factor` under M2 and M3, and the
    /// E4M3 value whose code is smaller by `step` under M8.
    #[inline(always)]
    pub fn apply(self, value: f32, step: u8) -> f32 {
        match self {
            Self::M2 | Self::M3 => value * self.factor(step),
            // Normal values of E4M3 are those of `f32` with fewer bits.
            Self::M8 => f32::from_bits(value.to_bits().wrapping_sub(u32::from(step) * E4M3_CODE)),
        }
    }

    /// The largest step at which every value of `format` is exact in E4M3, at most 15 so that a step fits 4 bits; `None`
    /// when there is no such ladder.
    ///
    /// With M2, E2M1 values times `2^(6 - step)` are exact up to step 14 and E3M0 values times `2^(4 - step)` up to
    /// 11; with M3, E2M1 values times `2^5` and the factor up to 15; with M8 those of the table without zero up to 15.
    pub const fn max_shift(self, format: Format) -> Option<u8> {
        match format.exact_ladder(self) {
            Some((max_shift, _)) => Some(max_shift),
            None => None,
        }
    }

    /// The exponent of the power of two by which the whole ladder is multiplied to lie in E4M3: 6 (E2M1) or 4 (E3M0) with
    /// M2, 5 with M3, 6 with M8.
    pub const fn e4m3_exponent(self, format: Format) -> Option<i32> {
        match format.exact_ladder(self) {
            Some((_, exponent)) => Some(exponent),
            None => None,
        }
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::M2 => "m2",
            Self::M3 => "m3",
            Self::M8 => "m8",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_at_every_step_is_exact_in_e4m3() {
        for ladder in Ladder::ALL {
            for format in Format::ALL {
                let Some(max) = ladder.max_shift(format) else { continue };
                let unit = 2.0f32.powi(ladder.e4m3_exponent(format).unwrap());
                let exact = |unit: f32, step| {
                    format.codebook().iter().all(|value| {
                        let scaled = ladder.apply(*value, step) * unit;
                        Format::E4M3.round(scaled) == scaled
                    })
                };
                assert!((0..=max).all(|step| exact(unit, step)), "{ladder:?} {format}");
                assert!(!exact(2.0 * unit, 0), "{ladder:?} {format}: the unit could be larger");
                assert!(max == 15 || !exact(unit, max + 1), "{ladder:?} {format}: a further step is exact");
            }
        }
    }

    #[test]
    fn no_other_step_of_an_octave_is_exact() {
        let exact = |factor: f32| {
            let values = Format::E2M1.codebook();
            values.iter().all(|value| Format::E4M3.round(value * factor) == value * factor)
        };
        let found: Vec<f32> =
            (16..32).map(|step| step as f32 / 16.0).filter(|&factor| exact(factor)).collect();
        assert_eq!(found, [1.0, 1.25, 1.5]);
    }

    #[test]
    fn factors_descend() {
        for ladder in Ladder::ALL {
            assert!((0..15).all(|step| ladder.factor(step + 1) < ladder.factor(step)));
            let octave = ladder.steps_per_octave();
            assert!((0..15 - octave).all(|step| ladder.factor(step + octave) == 0.5 * ladder.factor(step)));
        }
    }

    #[test]
    fn a_step_of_m8_is_a_code_of_e4m3() {
        for value in Format::Lut4.codebook() {
            for step in 0..16 {
                let expected = Format::E4M3.decode(Format::E4M3.encode(value) - step);
                assert_eq!(Ladder::M8.apply(value, step), expected, "{value} at step {step}");
            }
            assert_eq!(Ladder::M8.apply(value, 8), 0.5 * value);
        }
    }
}
