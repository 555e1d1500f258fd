//! The steps that group scales may stand below the scale of their row.

use std::fmt;

use crate::Format;

/// The factors that a group's scale may differ from the scale of its row by, in descending order, with one or three
/// in each octave (a factor of 2); named after the constraint on scales that yields them.
///
/// Every value of the format times every factor, times one power of two for the whole ladder, is exact in E4M3: a
/// kernel reads the weight of a group as E4M3 from a table and is left with one factor for the row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Ladder {
    /// 1, 1/2, 1/4, ...: the shifts of ZeroQuant-FP's M2.
    #[default]
    M2,
    /// 3/2, 5/4, 1, 3/4, 5/8, 1/2, ...: the only factors between powers of two by which the significands 1 and 3/2 of E2M1
    /// stay within the three mantissa bits of E4M3.
    M3,
}

impl Ladder {
    /// Every ladder.
    pub const ALL: [Self; 2] = [Self::M2, Self::M3];

    /// The factors of the first octave, descending.
    pub const fn octave(self) -> &'static [f32] {
        match self {
            Self::M2 => &[1.0],
            Self::M3 => &[1.5, 1.25, 1.0],
        }
    }

    /// The factor of a step, exact.
    pub fn factor(self, step: u8) -> f32 {
        let octave = self.octave();
        let (octaves, within) = (usize::from(step) / octave.len(), usize::from(step) % octave.len());
        octave[within] * 0.5f32.powi(octaves as i32)
    }

    /// The largest step at which every value of `format` is exact in E4M3, at most 15 so that a step fits 4 bits; `None`
    /// when there is no such ladder.
    ///
    /// With M2, E2M1 values times `2^(6 - step)` are exact up to step 14 and E3M0 values times `2^(4 - step)` up to
    /// 11; with M3, E2M1 values times `2^5` and the factor up to 15.
    pub const fn max_shift(self, format: Format) -> Option<u8> {
        match format.exact_ladder(self) {
            Some((max_shift, _)) => Some(max_shift),
            None => None,
        }
    }

    /// The exponent of the power of two by which the whole ladder is multiplied to lie in E4M3: 6 (E2M1) or 4 (E3M0) with
    /// M2, 5 with M3.
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
                        let scaled = value * ladder.factor(step) * unit;
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
            let octave = ladder.octave().len() as u8;
            assert!((0..15 - octave).all(|step| ladder.factor(step + octave) == 0.5 * ladder.factor(step)));
        }
    }
}
