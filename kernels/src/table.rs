//! What the codes of a group stand for in E4M3, for every step.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zqc_formats::{Format, Ladder};

/// Steps that a nibble can tell.
const STEPS: usize = 16;

/// Magnitudes of a 4-bit code.
const MAGNITUDES: usize = 8;

/// The E4M3 code of every magnitude at every step: what a kernel looks codes up in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Table([[u8; MAGNITUDES]; STEPS]);

impl Table {
    /// The table of sign-magnitude codes of 4 bits whose groups lie `step`s of `ladder` below their row: [`Ladder::apply`] of the magnitude
    /// times two to [`Ladder::e4m3_exponent`], exact. Steps beyond [`Ladder::max_shift`] are zeros. `None`
    /// for a format that has no such ladder.
    pub fn new(format: Format, ladder: Ladder) -> Option<Self> {
        let (last, exponent) = (ladder.max_shift(format)?, ladder.e4m3_exponent(format)?);
        let unit = 2.0f32.powi(exponent);
        let mut table = Self([[0; MAGNITUDES]; STEPS]);
        for (step, codes) in (0..=last).zip(&mut table.0) {
            for (magnitude, code) in (0u8..).zip(codes) {
                *code = Format::E4M3.encode(ladder.apply(format.decode(magnitude), step) * unit);
            }
        }
        Some(table)
    }

    /// The E4M3 codes of a step, by magnitude.
    pub fn codes(&self, step: u8) -> [u8; MAGNITUDES] {
        self.0[usize::from(step) % STEPS]
    }

    /// The value of a code, a sign above 3 bits of magnitude, at a step: that of the row, but for the scale of the row.
    pub fn value(&self, step: u8, code: u8) -> f32 {
        let magnitude = Format::E4M3.decode(self.codes(step)[usize::from(code & 7)]);
        if code & 8 == 0 { magnitude } else { -magnitude }
    }

    /// The codes of each step as a word, magnitude 0 in the low byte.
    pub fn words(&self) -> [u64; STEPS] {
        self.0.map(u64::from_le_bytes)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.words().map(|word| format!("{word:016x}"))).finish()
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.words().map(|word| format!("{word:016x}")).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = <[String; STEPS]>::deserialize(deserializer)?;
        let mut table = [[0; MAGNITUDES]; STEPS];
        for (codes, word) in table.iter_mut().zip(&words) {
            let hexadecimal = word.len() == 16 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
            let parsed = u64::from_str_radix(word, 16).ok().filter(|_| hexadecimal);
            let parsed = parsed
                .ok_or_else(|| D::Error::custom(format!("{word:?} is no word of 16 hexadecimal digits")))?;
            *codes = parsed.to_le_bytes();
        }
        Ok(Self(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_exact() {
        for ladder in Ladder::ALL {
            for format in [Format::E2M1, Format::E3M0, Format::Lut4] {
                let Some(table) = Table::new(format, ladder) else {
                    assert!(!format.ladders().any(|known| known == ladder));
                    continue;
                };
                let unit = 2.0f32.powi(ladder.e4m3_exponent(format).unwrap());
                for step in 0..16 {
                    let exists = step <= ladder.max_shift(format).unwrap();
                    let scale = if exists { unit } else { 0.0 };
                    for code in 0..16 {
                        let value = ladder.apply(format.decode(code), step) * scale;
                        assert_eq!(
                            table.value(step, code).to_bits(),
                            value.to_bits(),
                            "{format} {ladder} {step} {code}"
                        );
                    }
                }
            }
        }
        assert!(Table::new(Format::E4M3, Ladder::M2).is_none());
    }

    #[test]
    fn words_hold_magnitude_0_in_the_low_byte() {
        let table = Table::new(Format::E2M1, Ladder::M2).unwrap();
        // 0, 32, 64, 96, 128, 192, 256, 384 in E4M3.
        assert_eq!(table.words()[0], 0x7c78_7470_6c68_6000);
        assert_eq!(table.words()[15], 0);
        let json = serde_json::to_string(&table).unwrap();
        assert!(json.starts_with("[\"7c7874706c686000\","), "{json}");
        assert_eq!(serde_json::from_str::<Table>(&json).unwrap(), table);
        for wrong in ["7c7874706c68600", "+c7874706c686000", "xc7874706c686000"] {
            assert!(serde_json::from_str::<Table>(&json.replace("7c7874706c686000", wrong)).is_err());
        }
    }
}
