//! NEON: a quarter of a panel in a register.
#![allow(unsafe_op_in_unsafe_fn, reason = "the condition is the trait's, for every instruction")]

use std::arch::aarch64::*;

use super::{Decode, Lanes};
use crate::codebook::Codebook;

/// A quarter of the output features of a panel.
#[derive(Clone, Copy)]
pub(crate) struct Quad(float32x4_t);

/// A table of 16 values that are exact in bfloat16: the low bytes of those, and the high ones.
#[derive(Clone, Copy)]
pub(crate) struct Table(uint8x16x2_t);

/// FP8 with so many bits of significand, and the exponent of a power of two that corrects the difference of the biases.
#[derive(Clone, Copy)]
pub(crate) struct Float<const SIGNIFICAND: i32, const BIASES: u32>;

/// See [`Coding::Int8`](crate::tiling::Coding).
#[derive(Clone, Copy)]
pub(crate) struct Int8;

/// bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;

impl Lanes for Quad {
    const COUNT: usize = 4;
    const REGISTERS: usize = 32;
    type Table = Table;
    type Nibbles = Table;
    type E4M3 = Float<3, 120>;
    type E5M2 = Float<2, 112>;
    type Int8 = Int8;
    type Bf16 = Bf16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(vdupq_n_f32(value))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(vld1q_f32(from))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        let codes = vreinterpret_s8_u32(vdup_n_u32(from.cast::<u32>().read_unaligned()));
        Self(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(codes)))))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        vst1q_f32(to, self.0);
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(vaddq_f32(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(vsubq_f32(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn sub_bits(self, other: Self) -> Self {
        Self(vreinterpretq_f32_u32(vsubq_u32(vreinterpretq_u32_f32(self.0), vreinterpretq_u32_f32(other.0))))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(vmulq_f32(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, sum: Self) -> Self {
        Self(vfmaq_f32(sum.0, self.0, factor.0))
    }

    #[inline(always)]
    unsafe fn table(values: &[f32; 16]) -> Table {
        let byte = |shift: u32| values.map(|value| (value.to_bits() >> shift) as u8);
        Table(uint8x16x2_t(vld1q_u8(byte(16).as_ptr()), vld1q_u8(byte(24).as_ptr())))
    }

    #[inline(always)]
    unsafe fn ladder(table: Table, word: u64, part: usize) -> Self {
        let (even, odd) = ((word >> (8 * part)) as u32, (word >> (32 + 8 * part)) as u32);
        table.look_up(vld1q_u32([even, odd, even >> 4, odd >> 4].as_ptr()))
    }
}

impl Table {
    /// The values of the indices in the low 4 bits of the lanes.
    #[inline(always)]
    unsafe fn look_up(self, indices: uint32x4_t) -> Quad {
        // The two upper bytes of a lane are looked up, the lower ones are out of range and become 0.
        let indices = vandq_u32(indices, vdupq_n_u32(0xF));
        let bytes = vmlaq_u32(vdupq_n_u32(0x1000_FFFF), indices, vdupq_n_u32(0x0101_0000));
        Quad(vreinterpretq_f32_u8(vqtbl2q_u8(self.0, vreinterpretq_u8_u32(bytes))))
    }
}

impl Decode<Quad> for Table {
    const COLUMNS: usize = 8;

    #[inline(always)]
    unsafe fn new(codebook: &Codebook) -> Self {
        Quad::table(&codebook.values)
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, part: usize, pair: usize) -> (Quad, Quad) {
        let codes = vld1q_u32(line.add(16 * part).cast());
        let even = vshlq_u32(codes, vdupq_n_s32(-4 * pair as i32));
        (self.look_up(even), self.look_up(vshrq_n_u32::<16>(even)))
    }
}

impl<const SIGNIFICAND: i32, const BIASES: u32> Float<SIGNIFICAND, BIASES> {
    /// Four codes as `f32`: their bits in place, and a multiplication for the bias of the exponent, which makes subnormal codes
    /// right as well.
    #[inline(always)]
    unsafe fn decode(codes: *const u8) -> Quad {
        let codes = vreinterpret_u8_u32(vdup_n_u32(codes.cast::<u32>().read_unaligned()));
        let codes = vmovl_u16(vget_low_u16(vmovl_u8(codes)));
        let sign = vshlq_n_u32::<24>(vandq_u32(codes, vdupq_n_u32(0x80)));
        let magnitude = vshlq_u32(vandq_u32(codes, vdupq_n_u32(0x7F)), vdupq_n_s32(23 - SIGNIFICAND));
        let scale = f32::from_bits((127 + BIASES) << 23);
        Quad(vmulq_n_f32(vreinterpretq_f32_u32(vorrq_u32(sign, magnitude)), scale))
    }
}

impl<const SIGNIFICAND: i32, const BIASES: u32> Decode<Quad> for Float<SIGNIFICAND, BIASES> {
    const COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn new(_codebook: &Codebook) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, part: usize, pair: usize) -> (Quad, Quad) {
        let codes = line.add(32 * pair + 4 * part);
        (Self::decode(codes), Self::decode(codes.add(16)))
    }
}

impl Decode<Quad> for Int8 {
    const COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn new(_codebook: &Codebook) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, part: usize, pair: usize) -> (Quad, Quad) {
        let codes = line.add(32 * pair + 4 * part).cast::<i8>();
        (Quad::load_i8(codes), Quad::load_i8(codes.add(16)))
    }
}

impl Decode<Quad> for Bf16 {
    const COLUMNS: usize = 2;

    #[inline(always)]
    unsafe fn new(_codebook: &Codebook) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, part: usize, _pair: usize) -> (Quad, Quad) {
        let pairs = vld1q_u32(line.add(16 * part).cast());
        let odd = vandq_u32(pairs, vdupq_n_u32(0xFFFF_0000));
        (Quad(vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs))), Quad(vreinterpretq_f32_u32(odd)))
    }
}
