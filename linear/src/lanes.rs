//! Vectors of `f32`, of as many lanes as an instruction set has, and the decoding of a line of codes into them.
//!
//! Everything here is inlined into the kernels, which enable the instructions. That is the condition of every unsafe
//! function: it is called where the instruction set is enabled, with pointers to whole lines or vectors.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "none of its kernels are for others yet"))]
pub(crate) mod integers;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pairs;
pub(crate) mod scalar;

use crate::codebook::Codebook;

/// A vector.
///
/// # Safety
/// The functions are called where the instruction set is enabled, with pointers to [`Lanes::COUNT`] elements.
pub(crate) trait Lanes: Copy {
    /// Lanes, a divisor of a panel.
    const COUNT: usize;
    /// Registers of that many lanes.
    const REGISTERS: usize;
    /// A table of 16 values.
    type Table: Copy;
    /// See [`Coding::Nibbles`](crate::tiling::Coding).
    type Nibbles: Decode<Self>;
    /// See [`Coding::E4M3`](crate::tiling::Coding).
    type E4M3: Decode<Self>;
    /// See [`Coding::E5M2`](crate::tiling::Coding).
    type E5M2: Decode<Self>;
    /// See [`Coding::Int8`](crate::tiling::Coding).
    type Int8: Decode<Self>;
    /// See [`Coding::Bf16`](crate::tiling::Coding).
    type Bf16: Decode<Self>;

    /// Brings memory near, if that is possible; any address will do.
    #[inline(always)]
    unsafe fn prefetch(_from: *const u8) {}
    /// All lanes the same.
    unsafe fn splat(value: f32) -> Self;
    /// From memory.
    unsafe fn load(from: *const f32) -> Self;
    /// From integers in memory.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// To memory.
    unsafe fn store(self, to: *mut f32);
    /// The sum.
    unsafe fn add(self, other: Self) -> Self;
    /// The difference.
    unsafe fn sub(self, other: Self) -> Self;
    /// The difference of the bits, as integers.
    unsafe fn sub_bits(self, other: Self) -> Self;
    /// The product.
    unsafe fn mul(self, other: Self) -> Self;
    /// `self * factor + sum`, rounded once.
    unsafe fn fma(self, factor: Self, sum: Self) -> Self;
    /// A table of values.
    unsafe fn table(values: &[f32; 16]) -> Self::Table;
    /// The factors of the output features of part `part`, see [`GroupScales::Ladder`](crate::matrix::GroupScales).
    unsafe fn ladder(table: Self::Table, word: u64, part: usize) -> Self;
}

/// How a line becomes values.
///
/// # Safety
/// As of [`Lanes`]; `line` points to the 64 bytes of a line.
pub(crate) trait Decode<V>: Copy {
    /// Input features of a line.
    const COLUMNS: usize;

    /// For the values of codes of 4 bits, which others ignore.
    unsafe fn new(codebook: &Codebook) -> Self;
    /// The input features `2 pair` and `2 pair + 1` of part `part` of a line.
    unsafe fn pair(self, line: *const u8, part: usize, pair: usize) -> (V, V);
}
