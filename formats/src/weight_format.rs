//! How a solver codes weights.

use crate::{Format, FormatError};

/// How a solver codes weights: the number format, and whether every group has a zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightFormat {
    /// Format of the codes.
    pub format: Format,
    /// Whether the range of a group, which includes 0, is mapped to all codes, with a zero point that stands for 0;
    /// integer formats only. Else the scale alone maps the largest magnitude to the largest code.
    pub asymmetric: bool,
}

impl WeightFormat {
    /// Those that weights are solved in, by the words of the command line.
    pub const NAMED: [(&'static str, Self); 7] = [
        ("fp4", Self::symmetric(Format::E2M1)),
        ("lut4", Self::symmetric(Format::Lut4)),
        ("e3m0", Self::symmetric(Format::E3M0)),
        ("fp8", Self::symmetric(Format::E4M3)),
        ("int8", Self::symmetric(Format::Int8)),
        ("int4", Self { format: Format::Int4, asymmetric: true }),
        ("int4-sym", Self::symmetric(Format::Int4)),
    ];

    const fn symmetric(format: Format) -> Self {
        Self { format, asymmetric: false }
    }

    /// Checks that only integers have zero points.
    ///
    /// # Errors
    ///
    /// [`FormatError::ZeroPoints`].
    pub fn check(self) -> Result<(), FormatError> {
        match self {
            Self { format, asymmetric: true } if !format.is_integer() => Err(FormatError::ZeroPoints(format)),
            _ => Ok(()),
        }
    }
}

impl From<Format> for WeightFormat {
    /// The format without zero points.
    fn from(format: Format) -> Self {
        Self::symmetric(format)
    }
}
