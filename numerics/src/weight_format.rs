//! How a solver codes weights.

use crate::{Format, SolveError};

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
    /// Whether the format can be had.
    pub(crate) fn check(self) -> Result<(), SolveError> {
        match self {
            Self { format, asymmetric: true } if !format.is_integer() => Err(SolveError::ZeroPoints(format)),
            _ => Ok(()),
        }
    }
}

impl From<Format> for WeightFormat {
    /// The format without zero points.
    fn from(format: Format) -> Self {
        Self { format, asymmetric: false }
    }
}
