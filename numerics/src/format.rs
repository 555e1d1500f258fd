//! The number formats that weights and activations are quantized to.

use std::{fmt, str::FromStr};

use crate::{grid::Grid, integer::Integer, minifloat::Minifloat};

/// A number format of 4 or 8 bits.
///
/// Conversion from `f32` rounds to the nearest value, ties to even, and saturates; infinities saturate too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Format {
    /// FP4 of OCP MX and NVIDIA Blackwell: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
    E2M1,
    /// FP4 without mantissa: 0, 0.25, 0.5, 1, 2, 4, 8, 16 and their negatives. A tie between two powers of two goes to
    /// the larger (IEEE 754-2019, 4.3.1).
    E3M0,
    /// FP8 E4M3FN of OCP and NVIDIA Hopper: largest value 448, NaN, no infinity.
    E4M3,
    /// FP8 E5M2 of OCP: largest value 57344, NaN and infinity; conversion never produces infinity.
    E5M2,
    /// Two's complement in the low 4 bits: -8 to 7.
    Int4,
    /// Two's complement: -128 to 127.
    Int8,
}

enum Kind {
    Float(Minifloat),
    Integer(Integer),
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 6] = [Self::E2M1, Self::E3M0, Self::E4M3, Self::E5M2, Self::Int4, Self::Int8];

    /// Bits of a code.
    pub const fn bits(self) -> u32 {
        match self {
            Self::E2M1 | Self::E3M0 | Self::Int4 => 4,
            Self::E4M3 | Self::E5M2 | Self::Int8 => 8,
        }
    }

    /// The largest value, which scales are computed against: 6, 16, 448, 57344, 7, 127.
    pub const fn max(self) -> f32 {
        self.grid().max
    }

    /// Whether the values are integers, which can have a zero point.
    pub const fn is_integer(self) -> bool {
        matches!(self.kind(), Kind::Integer(_))
    }

    /// The code of the value nearest to `x`, in the low [`bits`](Self::bits).
    ///
    /// NaN gives the positive quiet NaN (0x7F in E4M3, 0x7E in E5M2), and 0 in the formats that have none.
    pub fn encode(self, x: f32) -> u8 {
        match self.kind() {
            Kind::Float(float) => float.encode(x),
            Kind::Integer(integer) => integer.encode(x),
        }
    }

    /// The value of a code; bits above [`bits`](Self::bits) are ignored.
    pub fn decode(self, code: u8) -> f32 {
        match self.kind() {
            Kind::Float(float) => float.decode(code),
            Kind::Integer(integer) => integer.decode(code),
        }
    }

    /// The value nearest to `x`: `decode(encode(x))`.
    pub fn round(self, x: f32) -> f32 {
        self.grid().round(x)
    }

    /// The values in code order: 16 or 256 of them.
    pub fn codebook(self) -> Vec<f32> {
        (0..1u16 << self.bits()).map(|code| self.decode(code as u8)).collect()
    }

    pub(crate) const fn grid(self) -> Grid {
        match self.kind() {
            Kind::Float(float) => float.grid,
            Kind::Integer(integer) => integer.grid,
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::E2M1 => Kind::Float(Minifloat::E2M1),
            Self::E3M0 => Kind::Float(Minifloat::E3M0),
            Self::E4M3 => Kind::Float(Minifloat::E4M3),
            Self::E5M2 => Kind::Float(Minifloat::E5M2),
            Self::Int4 => Kind::Integer(Integer::INT4),
            Self::Int8 => Kind::Integer(Integer::INT8),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::E2M1 => "e2m1",
            Self::E3M0 => "e3m0",
            Self::E4M3 => "e4m3",
            Self::E5M2 => "e5m2",
            Self::Int4 => "int4",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is none of `e2m1`, `e3m0`, `e4m3`, `e5m2`, `int4`, `int8`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown number format '{0}' (known: e2m1, e3m0, e4m3, e5m2, int4, int8)")]
pub struct ParseFormatError(pub String);

impl FromStr for Format {
    type Err = ParseFormatError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| ParseFormatError(name.to_owned()))
    }
}
