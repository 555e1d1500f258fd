//! Two's complement integers of at most 8 bits.

use crate::grid::Grid;

/// A signed integer format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Integer {
    /// Width of a code.
    pub bits: u32,
    /// The values.
    pub grid: Grid,
}

impl Integer {
    /// -8 to 7.
    pub const INT4: Self = Self::new(4);
    /// -128 to 127.
    pub const INT8: Self = Self::new(8);

    const fn new(bits: u32) -> Self {
        let half = 1 << (bits - 1);
        // Every magnitude up to 2^(bits - 1) is below 2^bits, where the step is 1.
        let grid = Grid {
            mantissa_bits: bits,
            min_exponent: bits as i32,
            min: -half as f32,
            max: (half - 1) as f32,
            nan: 0.0,
        };
        Self { bits, grid }
    }

    /// The nearest integer, ties to even, saturating, in the low bits; NaN gives 0.
    #[inline(always)]
    pub fn encode(self, x: f32) -> u8 {
        let mask = ((1u32 << self.bits) - 1) as u8;
        self.grid.round(x) as i8 as u8 & mask
    }

    /// The value of a code. Bits above the format's width are ignored.
    pub fn decode(self, code: u8) -> f32 {
        let unused = 8 - self.bits;
        f32::from(((code << unused) as i8) >> unused)
    }
}
