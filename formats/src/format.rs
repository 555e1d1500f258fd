//! The number formats that weights and activations are quantized to.

use std::{fmt, str::FromStr};

use crate::{Ladder, grid::Grid, integer::Integer, lookup_table::LookupTable, minifloat::Minifloat};

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
    /// A table of 4 bits without 0: 0.234375, 0.75, 1.375, 1.875, 2.75, 3.5, 4.5, 6 and their negatives, shaped for normally
    /// distributed weights. What it cannot hold is a weight that is exactly zero.
    Lut4,
}

/// The finite values of a format, as rounding sees them.
#[derive(Clone, Copy, Debug)]
pub enum Levels {
    /// Evenly spaced within each binade.
    Even(Grid),
    /// Those of a table.
    Table(LookupTable),
}

/// What distinguishes a format: all that the workspace says of it follows from here.
struct Properties {
    name: &'static str,
    /// How the names of functions spell it.
    spelling: &'static str,
    /// Whether it is the format of its width that the names of functions mean when they spell none.
    is_implied: bool,
    kind: Kind,
    /// The `TensorProto.DataType` of its codes, where ONNX has one.
    onnx_type: Option<i32>,
    /// The ladders whose steps keep its values exact in E4M3, those of finer steps after the others.
    ladders: &'static [ExactLadder],
}

enum Kind {
    Float(Minifloat),
    Integer(Integer),
    Table(LookupTable),
}

/// A ladder by which a format stays exact in E4M3.
struct ExactLadder {
    ladder: Ladder,
    /// See [`Ladder::max_shift`].
    max_shift: u8,
    /// See [`Ladder::e4m3_exponent`].
    exponent: i32,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 7] =
        [Self::E2M1, Self::E3M0, Self::E4M3, Self::E5M2, Self::Int4, Self::Int8, Self::Lut4];

    const fn properties(self) -> Properties {
        match self {
            Self::E2M1 => Properties {
                name: "e2m1",
                spelling: "E2M1",
                is_implied: true,
                kind: Kind::Float(Minifloat::E2M1),
                onnx_type: Some(23),
                ladders: &[
                    ExactLadder { ladder: Ladder::M2, max_shift: 14, exponent: 6 },
                    ExactLadder { ladder: Ladder::M3, max_shift: 15, exponent: 5 },
                ],
            },
            Self::E3M0 => Properties {
                name: "e3m0",
                spelling: "E3M0",
                is_implied: false,
                kind: Kind::Float(Minifloat::E3M0),
                onnx_type: None,
                ladders: &[ExactLadder { ladder: Ladder::M2, max_shift: 11, exponent: 4 }],
            },
            Self::E4M3 => Properties {
                name: "e4m3",
                spelling: "E4M3",
                is_implied: true,
                kind: Kind::Float(Minifloat::E4M3),
                onnx_type: Some(17),
                ladders: &[],
            },
            Self::E5M2 => Properties {
                name: "e5m2",
                spelling: "E5M2",
                is_implied: false,
                kind: Kind::Float(Minifloat::E5M2),
                onnx_type: Some(19),
                ladders: &[],
            },
            Self::Int4 => Properties {
                name: "int4",
                spelling: "Int4",
                is_implied: false,
                kind: Kind::Integer(Integer::INT4),
                onnx_type: Some(22),
                ladders: &[],
            },
            Self::Int8 => Properties {
                name: "int8",
                spelling: "Int8",
                is_implied: false,
                kind: Kind::Integer(Integer::INT8),
                onnx_type: Some(3),
                ladders: &[],
            },
            Self::Lut4 => Properties {
                name: "lut4",
                spelling: "Lut4",
                is_implied: false,
                kind: Kind::Table(LookupTable::LUT4),
                onnx_type: None,
                ladders: &[ExactLadder { ladder: Ladder::M8, max_shift: 15, exponent: 6 }],
            },
        }
    }

    /// Bits of a code.
    pub const fn bits(self) -> u32 {
        match self.properties().kind {
            Kind::Float(float) => float.bits(),
            Kind::Integer(integer) => integer.bits,
            Kind::Table(_) => 4,
        }
    }

    /// The largest value, which scales are computed against: 6, 16, 448, 57344, 7, 127, 6.
    pub const fn max(self) -> f32 {
        match self.levels() {
            Levels::Even(grid) => grid.max,
            Levels::Table(LookupTable { magnitudes: [.., largest] }) => largest,
        }
    }

    /// Whether the values are integers, which can have a zero point.
    pub const fn is_integer(self) -> bool {
        matches!(self.properties().kind, Kind::Integer(_))
    }

    /// The `TensorProto.DataType` of codes of this format, 4-bit ones packed two a byte; `None` where ONNX has none.
    pub const fn onnx_type(self) -> Option<i32> {
        self.properties().onnx_type
    }

    /// The format whose codes have this `TensorProto.DataType`.
    pub fn of_onnx_type(onnx_type: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.onnx_type() == Some(onnx_type))
    }

    /// How the names of functions spell it: `E2M1`.
    pub const fn spelling(self) -> &'static str {
        self.properties().spelling
    }

    /// Whether it is the format of its width that the names of functions mean when they spell none.
    pub(crate) const fn is_implied(self) -> bool {
        self.properties().is_implied
    }

    /// The ladders on which its values are exact in E4M3, those of finer steps after the others.
    pub fn ladders(self) -> impl DoubleEndedIterator<Item = Ladder> {
        self.properties().ladders.iter().map(|exact| exact.ladder)
    }

    /// [`Ladder::max_shift`] and [`Ladder::e4m3_exponent`].
    pub(crate) const fn exact_ladder(self, ladder: Ladder) -> Option<(u8, i32)> {
        let ladders = self.properties().ladders;
        let mut at = 0;
        while at < ladders.len() {
            let exact = &ladders[at];
            if exact.ladder as u8 == ladder as u8 {
                return Some((exact.max_shift, exact.exponent));
            }
            at += 1;
        }
        None
    }

    /// The code of the value nearest to `x`, in the low [`bits`](Self::bits).
    ///
    /// NaN gives the positive quiet NaN (0x7F in E4M3, 0x7E in E5M2), and code 0 in the formats that have none.
    pub fn encode(self, x: f32) -> u8 {
        match self.properties().kind {
            Kind::Float(float) => float.encode(x),
            Kind::Integer(integer) => integer.encode(x),
            Kind::Table(table) => table.encode(x),
        }
    }

    /// The value of a code; bits above [`bits`](Self::bits) are ignored.
    pub fn decode(self, code: u8) -> f32 {
        match self.properties().kind {
            Kind::Float(float) => float.decode(code),
            Kind::Integer(integer) => integer.decode(code),
            Kind::Table(table) => table.decode(code),
        }
    }

    /// The value nearest to `x`: `decode(encode(x))`.
    pub fn round(self, x: f32) -> f32 {
        match self.levels() {
            Levels::Even(grid) => grid.round(x),
            Levels::Table(table) => table.decode(table.encode(x)),
        }
    }

    /// The values in code order: 16 or 256 of them.
    pub fn codebook(self) -> Vec<f32> {
        (0..1u16 << self.bits()).map(|code| self.decode(code as u8)).collect()
    }

    /// The values, as rounding sees them.
    pub const fn levels(self) -> Levels {
        match self.properties().kind {
            Kind::Float(float) => Levels::Even(float.grid),
            Kind::Integer(integer) => Levels::Even(integer.grid),
            Kind::Table(table) => Levels::Table(table),
        }
    }

    const fn name(self) -> &'static str {
        self.properties().name
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no format has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown number format '{0}' (known: {known})", known = Format::ALL.map(Format::name).join(", "))]
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
