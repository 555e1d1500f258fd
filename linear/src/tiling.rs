//! How a packed matrix is divided: panels, lines and blocks.
//!
//! Sixteen output features are a *panel*; panels lie one after the other. Within a panel the input features of a group lie in
//! lines of 64 bytes, the last line of a group filled up with codes of 0:
//!
//! * Codes of 4 bits: a line is 8 input features. Its 16-bit element `2 j + h` holds, in nibble `t`, output feature `j` of the panel
//!   and input feature `2 t + h`. Shifted by `4 t` and looked up in a table of 16-bit values, a line is four rows of the operand
//!   `B` of AMX, and of products of integers, in which the two of a pair lie side by side.
//! * Codes of 8 bits: a line is 4 input features, 16 bytes each.
//! * bfloat16: a line is the 2 input features of a pair, output feature by output feature.

use zqc_formats::Format;

/// Input features of a block, see the [order of sums](crate#order-of-sums).
pub(crate) const BLOCK: usize = 32;
/// Output features of a panel.
pub(crate) const PANEL: usize = 16;
/// Bytes of a line.
pub(crate) const LINE: usize = 64;

/// What codes stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Codes of 4 bits, with the values of a codebook.
    Nibbles,
    /// See [`Format::E4M3`], without NaN.
    E4M3,
    /// See [`Format::E5M2`], without NaN and infinity.
    E5M2,
    /// See [`Format::Int8`].
    Int8,
    /// bfloat16.
    Bf16,
}

impl Coding {
    pub(crate) fn of(format: Format) -> Self {
        match format {
            Format::E2M1 | Format::E3M0 | Format::Int4 | Format::Lut4 => Self::Nibbles,
            Format::E4M3 => Self::E4M3,
            Format::E5M2 => Self::E5M2,
            Format::Int8 => Self::Int8,
        }
    }

    /// Input features of a line.
    pub(crate) const fn columns(self) -> usize {
        match self {
            Self::Nibbles => 8,
            Self::E4M3 | Self::E5M2 | Self::Int8 => 4,
            Self::Bf16 => 2,
        }
    }
}
