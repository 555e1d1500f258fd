//! Sign-magnitude floating point formats of at most 8 bits: sign, exponent, mantissa from the top bit down, with
//! subnormals.

use crate::grid::Grid;

/// A format, by what distinguishes it from the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Minifloat {
    /// Exponent field width.
    exponent_bits: u32,
    /// The values.
    pub grid: Grid,
    /// How the topmost exponents are used.
    specials: Specials,
}

/// Which codes are no finite numbers.
#[derive(Clone, Copy, Debug)]
enum Specials {
    /// None.
    None,
    /// All ones is NaN, and there is no infinity.
    NanOnly,
    /// The topmost exponent holds infinity and NaN, as in IEEE 754.
    Ieee,
}

impl Minifloat {
    /// FP4 of OCP MX: 2 exponent bits, 1 mantissa bit.
    pub const E2M1: Self = Self::new(2, 1, 6.0, Specials::None);
    /// FP4 of powers of two: 3 exponent bits, no mantissa.
    pub const E3M0: Self = Self::new(3, 0, 16.0, Specials::None);
    /// FP8 E4M3FN: 4 exponent bits, 3 mantissa bits.
    pub const E4M3: Self = Self::new(4, 3, 448.0, Specials::NanOnly);
    /// FP8 E5M2: 5 exponent bits, 2 mantissa bits.
    pub const E5M2: Self = Self::new(5, 2, 57344.0, Specials::Ieee);

    const fn new(exponent_bits: u32, mantissa_bits: u32, max: f32, specials: Specials) -> Self {
        let bias = (1 << (exponent_bits - 1)) - 1;
        let nan = if matches!(specials, Specials::None) { 0.0 } else { f32::NAN };
        let grid = Grid { mantissa_bits, min_exponent: 1 - bias, min: -max, max, nan };
        Self { exponent_bits, grid, specials }
    }

    /// Width of a code.
    pub const fn bits(self) -> u32 {
        self.sign_shift() + 1
    }

    /// The code of the value nearest to `x`, saturating. NaN gives the positive quiet NaN, or 0 where there is none.
    #[inline(always)]
    pub fn encode(self, x: f32) -> u8 {
        let rounded = self.grid.round(x);
        if rounded.is_nan() {
            return self.nan_code();
        }
        let binade = self.grid.binade(rounded);
        let offset = (binade >> 23) as i32 - (127 + self.grid.min_exponent);
        let step = f32::from_bits(binade - (self.grid.mantissa_bits << 23));
        // The significand of a normal value carries its hidden bit into the exponent field.
        let significand = (rounded.abs() / step) as u8;
        let sign = (rounded.is_sign_negative() as u8) << self.sign_shift();
        sign | (((offset as u8) << self.grid.mantissa_bits) + significand)
    }

    /// The value of a code. Bits above the format's width are ignored.
    pub fn decode(self, code: u8) -> f32 {
        let mantissa_mask = (1 << self.grid.mantissa_bits) - 1;
        let exponent_mask = (1 << self.exponent_bits) - 1;
        let mantissa = code & mantissa_mask;
        let exponent = (code >> self.grid.mantissa_bits) & exponent_mask;
        let magnitude = match self.specials {
            Specials::Ieee if exponent == exponent_mask && mantissa == 0 => f32::INFINITY,
            Specials::Ieee if exponent == exponent_mask => f32::NAN,
            Specials::NanOnly if exponent == exponent_mask && mantissa == mantissa_mask => f32::NAN,
            _ => {
                let hidden = if exponent == 0 { 0 } else { mantissa_mask + 1 };
                let step =
                    i32::from(exponent.max(1)) - 1 + self.grid.min_exponent - self.grid.mantissa_bits as i32;
                f32::from(hidden + mantissa) * f32::from_bits(((127 + step) as u32) << 23)
            }
        };
        if (code >> self.sign_shift()) & 1 == 1 { -magnitude } else { magnitude }
    }

    const fn sign_shift(self) -> u32 {
        self.exponent_bits + self.grid.mantissa_bits
    }

    const fn nan_code(self) -> u8 {
        match self.specials {
            Specials::None => 0,
            Specials::NanOnly => 0x7F,
            Specials::Ieee => 0x7E,
        }
    }
}
