//! AVX-512: a panel in a register.
#![allow(unsafe_op_in_unsafe_fn, reason = "the condition is the trait's, for every instruction")]

use std::arch::x86_64::*;
use std::hint::black_box;

use super::integers::{Dot, IntegerDecode, Integers};
use super::{Decode, Lanes};
use crate::codebook::Codebook;

/// The output features of a panel.
#[derive(Clone, Copy)]
pub(crate) struct Zmm(pub __m512);

/// Values of codes of 4 bits: 16 floats, and the same twice in bfloat16, so that the fifth bit of an index does not matter.
#[derive(Clone, Copy)]
pub(crate) struct Nibbles {
    floats: __m512,
    pub(super) halves: __m512i,
    /// See [`Codebook::minuends`].
    pub(super) minuends: __m512i,
    /// See [`Codebook::multiples`], twice as well.
    integers: __m512i,
    /// 0, which the compiler does not know: else it takes an instruction more to clear what is not looked up.
    zero: __m512i,
}

/// See [`Coding::E4M3`](crate::tiling::Coding).
#[derive(Clone, Copy)]
pub(crate) struct E4M3;

/// See [`Coding::E5M2`](crate::tiling::Coding).
#[derive(Clone, Copy)]
pub(crate) struct E5M2;

/// See [`Coding::Int8`](crate::tiling::Coding).
#[derive(Clone, Copy)]
pub(crate) struct Int8;

/// bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;

/// The upper half of every lane.
pub(super) const UPPER: __mmask32 = 0xAAAA_AAAA;

impl Lanes for Zmm {
    const COUNT: usize = 16;
    const REGISTERS: usize = 32;
    type Table = __m512;
    type Nibbles = Nibbles;
    type E4M3 = E4M3;
    type E5M2 = E5M2;
    type Int8 = Int8;
    type Bf16 = Bf16;

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(from.cast());
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(_mm512_set1_ps(value))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(_mm512_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        _mm512_storeu_ps(to, self.0);
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(_mm512_add_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(_mm512_sub_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn sub_bits(self, other: Self) -> Self {
        Self(_mm512_castsi512_ps(_mm512_sub_epi32(_mm512_castps_si512(self.0), _mm512_castps_si512(other.0))))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(_mm512_mul_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, sum: Self) -> Self {
        Self(_mm512_fmadd_ps(self.0, factor.0, sum.0))
    }

    #[inline(always)]
    unsafe fn table(values: &[f32; 16]) -> __m512 {
        _mm512_loadu_ps(values.as_ptr())
    }

    #[inline(always)]
    unsafe fn ladder(table: __m512, word: u64, _part: usize) -> Self {
        Self(_mm512_permutexvar_ps(Self::shifts(word), table))
    }
}

impl Zmm {
    /// The shifts of a word, see [`GroupScales::Ladder`](crate::matrix::GroupScales), in the low 4 bits of the lanes.
    #[inline(always)]
    pub(super) unsafe fn shifts(word: u64) -> __m512i {
        let by = _mm512_set_epi64(28, 24, 20, 16, 12, 8, 4, 0);
        _mm512_srlv_epi64(_mm512_set1_epi64(word as i64), by)
    }
}

impl Nibbles {
    /// A line, shifted such that the codes of a pair are the low bits of its halves.
    #[inline(always)]
    pub(super) unsafe fn indices(line: *const u8, pair: usize) -> __m512i {
        _mm512_srlv_epi32(_mm512_loadu_si512(line.cast()), _mm512_set1_epi32(4 * pair as i32))
    }
}

impl Decode<Zmm> for Nibbles {
    const COLUMNS: usize = 8;

    #[inline(always)]
    unsafe fn new(codebook: &Codebook) -> Self {
        let Codebook { values, halves, minuends: [first, second], multiples, .. } = codebook;
        let half = |halves: &[u16; 16]| _mm256_loadu_si256(halves.as_ptr().cast());
        Self {
            floats: _mm512_loadu_ps(values.as_ptr()),
            halves: _mm512_broadcast_i64x4(half(halves)),
            minuends: _mm512_inserti64x4(_mm512_castsi256_si512(half(first)), half(second), 1),
            integers: _mm512_broadcast_i64x4(_mm256_cvtepi8_epi16(_mm_loadu_si128(
                multiples.as_ptr().cast(),
            ))),
            zero: black_box(_mm512_setzero_si512()),
        }
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, _part: usize, pair: usize) -> (Zmm, Zmm) {
        let indices = Self::indices(line, pair);
        let odd = _mm512_mask_permutexvar_epi16(self.zero, UPPER, indices, self.halves);
        (Zmm(_mm512_permutexvar_ps(indices, self.floats)), Zmm(_mm512_castsi512_ps(odd)))
    }
}

impl Integers for Zmm {
    type Pairs = __m512i;
    type Sums = __m512i;

    #[inline(always)]
    unsafe fn nothing() -> __m512i {
        _mm512_setzero_si512()
    }

    #[inline(always)]
    unsafe fn splat_pair(from: *const u16) -> __m512i {
        _mm512_set1_epi32(from.cast::<i32>().read_unaligned())
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const u16) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }

    #[inline(always)]
    unsafe fn store_pairs(pairs: __m512i, to: *mut u16) {
        _mm512_storeu_si512(to.cast(), pairs);
    }

    #[inline(always)]
    unsafe fn centred(pairs: __m512i, zero_points: *const i8, unit: i16) -> __m512i {
        let zero_points = _mm_loadu_si128(zero_points.cast());
        let (low, high) =
            (_mm_unpacklo_epi8(zero_points, zero_points), _mm_unpackhi_epi8(zero_points, zero_points));
        let twice = _mm512_cvtepi8_epi16(_mm256_set_m128i(high, low));
        _mm512_sub_epi16(pairs, _mm512_mullo_epi16(twice, _mm512_set1_epi16(unit)))
    }

    #[inline(always)]
    unsafe fn values(sums: __m512i) -> Self {
        Self(_mm512_cvtepi32_ps(sums))
    }
}

/// Products by one instruction, sums by another.
pub(crate) struct Apart;

impl Dot<Zmm> for Apart {
    #[inline(always)]
    unsafe fn add(sums: __m512i, weights: __m512i, x: __m512i) -> __m512i {
        _mm512_add_epi32(sums, _mm512_madd_epi16(weights, x))
    }
}

/// Both by one instruction of VNNI.
pub(crate) struct Vnni;

impl Dot<Zmm> for Vnni {
    #[inline(always)]
    unsafe fn add(sums: __m512i, weights: __m512i, x: __m512i) -> __m512i {
        _mm512_dpwssd_epi32(sums, weights, x)
    }
}

impl IntegerDecode<Zmm> for Nibbles {
    const UNIT: f32 = 1.0;

    #[inline(always)]
    unsafe fn integers(self, line: *const u8, _part: usize, pair: usize) -> __m512i {
        _mm512_permutexvar_epi16(Self::indices(line, pair), self.integers)
    }
}

impl IntegerDecode<Zmm> for Int8 {
    const UNIT: f32 = 1.0;

    #[inline(always)]
    unsafe fn integers(self, line: *const u8, _part: usize, pair: usize) -> __m512i {
        let line = line.add(32 * pair);
        let (even, odd) = (_mm_loadu_si128(line.cast()), _mm_loadu_si128(line.add(16).cast()));
        let (low, high) = (_mm_unpacklo_epi8(even, odd), _mm_unpackhi_epi8(even, odd));
        _mm512_cvtepi8_epi16(_mm256_set_m128i(high, low))
    }
}

impl Decode<Zmm> for E4M3 {
    const COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn new(_codebook: &Codebook) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, _part: usize, pair: usize) -> (Zmm, Zmm) {
        let codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(line.add(32 * pair).cast()));
        // Read as IEEE half precision, whose exponents have a bias of 15 instead of 7.
        let halves = _mm512_and_si512(_mm512_slli_epi16(codes, 7), _mm512_set1_epi16(0xBF80_u16 as i16));
        let ((even, odd), unit) = (from_halves(halves), Zmm::splat(256.0));
        (even.mul(unit), odd.mul(unit))
    }
}

impl Decode<Zmm> for E5M2 {
    const COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn new(_codebook: &Codebook) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, _part: usize, pair: usize) -> (Zmm, Zmm) {
        let codes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(line.add(32 * pair).cast()));
        from_halves(_mm512_slli_epi16(codes, 8))
    }
}

/// The floats of 32 numbers of half precision.
#[inline(always)]
unsafe fn from_halves(halves: __m512i) -> (Zmm, Zmm) {
    let (first, second) = (_mm512_castsi512_si256(halves), _mm512_extracti64x4_epi64(halves, 1));
    (Zmm(_mm512_cvtph_ps(first)), Zmm(_mm512_cvtph_ps(second)))
}

impl Decode<Zmm> for Int8 {
    const COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn new(_codebook: &Codebook) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, _part: usize, pair: usize) -> (Zmm, Zmm) {
        let column = line.add(32 * pair).cast::<i8>();
        (Zmm::load_i8(column), Zmm::load_i8(column.add(16)))
    }
}

impl Decode<Zmm> for Bf16 {
    const COLUMNS: usize = 2;

    #[inline(always)]
    unsafe fn new(_codebook: &Codebook) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, _part: usize, _pair: usize) -> (Zmm, Zmm) {
        let pairs = _mm512_loadu_si512(line.cast());
        let odd = _mm512_maskz_mov_epi16(UPPER, pairs);
        (Zmm(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))), Zmm(_mm512_castsi512_ps(odd)))
    }
}
