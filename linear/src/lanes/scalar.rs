//! A panel in an array.

use zqc_formats::Format;

use super::{Decode, Lanes};
use crate::codebook::Codebook;
use crate::tiling::PANEL;

/// The output features of a panel.
#[derive(Clone, Copy)]
pub(crate) struct Array([f32; PANEL]);

/// Values of all codes of 4 bits.
#[derive(Clone, Copy)]
pub(crate) struct Nibbles([f32; 16]);

/// A format of 8 bits.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<const FORMAT: u8>;

/// bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;

const E4M3: u8 = 0;
const E5M2: u8 = 1;
const INT8: u8 = 2;

impl Lanes for Array {
    const COUNT: usize = PANEL;
    const REGISTERS: usize = 16;
    type Table = [f32; 16];
    type Nibbles = Nibbles;
    type E4M3 = Bytes<E4M3>;
    type E5M2 = Bytes<E5M2>;
    type Int8 = Bytes<INT8>;
    type Bf16 = Bf16;

    unsafe fn splat(value: f32) -> Self {
        Self([value; PANEL])
    }

    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's pointer is to a whole vector.
        Self(unsafe { from.cast::<[f32; PANEL]>().read() })
    }

    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller's pointer is to a whole vector.
        Self(unsafe { from.cast::<[i8; PANEL]>().read() }.map(f32::from))
    }

    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's pointer is to a whole vector.
        unsafe { to.cast::<[f32; PANEL]>().write(self.0) }
    }

    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] + other.0[lane]))
    }

    unsafe fn sub(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] - other.0[lane]))
    }

    unsafe fn sub_bits(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            f32::from_bits(self.0[lane].to_bits().wrapping_sub(other.0[lane].to_bits()))
        }))
    }

    unsafe fn mul(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] * other.0[lane]))
    }

    unsafe fn fma(self, factor: Self, sum: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane].mul_add(factor.0[lane], sum.0[lane])))
    }

    unsafe fn table(values: &[f32; 16]) -> [f32; 16] {
        *values
    }

    unsafe fn ladder(table: [f32; 16], word: u64, _part: usize) -> Self {
        Self(std::array::from_fn(|lane| table[(word >> (4 * (lane / 2 + 8 * (lane % 2))) & 0xF) as usize]))
    }
}

impl Decode<Array> for Nibbles {
    const COLUMNS: usize = 8;

    unsafe fn new(codebook: &Codebook) -> Self {
        Self(codebook.values)
    }

    unsafe fn pair(self, line: *const u8, _part: usize, pair: usize) -> (Array, Array) {
        // SAFETY: the caller's pointer is to a line of codes, 16 words.
        let words = unsafe { line.cast::<[[u8; 4]; PANEL]>().read() }.map(u32::from_le_bytes);
        let column = |shift: usize| Array(words.map(|word| self.0[(word >> shift & 0xF) as usize]));
        (column(4 * pair), column(16 + 4 * pair))
    }
}

impl<const FORMAT: u8> Decode<Array> for Bytes<FORMAT> {
    const COLUMNS: usize = 4;

    unsafe fn new(_codebook: &Codebook) -> Self {
        Self
    }

    unsafe fn pair(self, line: *const u8, _part: usize, pair: usize) -> (Array, Array) {
        let format = match FORMAT {
            E4M3 => Format::E4M3,
            E5M2 => Format::E5M2,
            _ => Format::Int8,
        };
        // SAFETY: the caller's pointer is to a line of codes, 16 of each of 4 input features.
        let columns = unsafe { line.cast::<[[u8; PANEL]; 4]>().read() };
        (
            Array(columns[2 * pair].map(|code| format.decode(code))),
            Array(columns[2 * pair + 1].map(|code| format.decode(code))),
        )
    }
}

impl Decode<Array> for Bf16 {
    const COLUMNS: usize = 2;

    unsafe fn new(_codebook: &Codebook) -> Self {
        Self
    }

    unsafe fn pair(self, line: *const u8, _part: usize, _pair: usize) -> (Array, Array) {
        // SAFETY: the caller's pointer is to a line of codes, 16 pairs.
        let words = unsafe { line.cast::<[[u8; 4]; PANEL]>().read() }.map(u32::from_le_bytes);
        (
            Array(words.map(|word| f32::from_bits(word << 16))),
            Array(words.map(|word| f32::from_bits(word & 0xFFFF_0000))),
        )
    }
}
