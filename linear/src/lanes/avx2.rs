//! AVX2 with FMA and F16C: half a panel in a register.
#![allow(unsafe_op_in_unsafe_fn, reason = "the condition is the trait's, for every instruction")]

use std::arch::x86_64::*;

use super::integers::{Dot, IntegerDecode, Integers};
use super::{Decode, Lanes};
use crate::codebook::Codebook;

/// Half of the output features of a panel.
#[derive(Clone, Copy)]
pub(crate) struct Ymm(__m256);

/// Values of codes of 4 bits, which are exact in bfloat16: the low bytes of those, and the high ones.
#[derive(Clone, Copy)]
pub(crate) struct Nibbles {
    low: __m256i,
    high: __m256i,
    /// See [`Codebook::multiples`].
    integers: __m256i,
}

/// A table of 16 values, in two registers.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    lower: __m256,
    upper: __m256,
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

impl Lanes for Ymm {
    const COUNT: usize = 8;
    const REGISTERS: usize = 16;
    type Table = Table;
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
        Self(_mm256_set1_ps(value))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(_mm256_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        _mm256_storeu_ps(to, self.0);
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(_mm256_add_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(_mm256_sub_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn sub_bits(self, other: Self) -> Self {
        Self(_mm256_castsi256_ps(_mm256_sub_epi32(_mm256_castps_si256(self.0), _mm256_castps_si256(other.0))))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(_mm256_mul_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, sum: Self) -> Self {
        Self(_mm256_fmadd_ps(self.0, factor.0, sum.0))
    }

    #[inline(always)]
    unsafe fn table(values: &[f32; 16]) -> Table {
        Table { lower: _mm256_loadu_ps(values.as_ptr()), upper: _mm256_loadu_ps(values[8..].as_ptr()) }
    }

    #[inline(always)]
    unsafe fn ladder(table: Table, word: u64, part: usize) -> Self {
        let shifts = _mm256_set_epi64x(12, 8, 4, 0);
        table.look_up(_mm256_srlv_epi64(_mm256_set1_epi64x((word >> (16 * part)) as i64), shifts))
    }
}

impl Table {
    /// The values of the indices in the low 4 bits of the lanes.
    #[inline(always)]
    unsafe fn look_up(self, indices: __m256i) -> Ymm {
        let lower = _mm256_permutevar8x32_ps(self.lower, indices);
        let upper = _mm256_permutevar8x32_ps(self.upper, indices);
        Ymm(_mm256_blendv_ps(lower, upper, _mm256_castsi256_ps(_mm256_slli_epi32(indices, 28))))
    }
}

impl Decode<Ymm> for Nibbles {
    const COLUMNS: usize = 8;

    #[inline(always)]
    unsafe fn new(codebook: &Codebook) -> Self {
        let Codebook { low, high, multiples, .. } = codebook;
        let twice = |bytes: *const u8| _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.cast()));
        Self {
            low: twice(low.as_ptr()),
            high: twice(high.as_ptr()),
            integers: twice(multiples.as_ptr().cast()),
        }
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, part: usize, pair: usize) -> (Ymm, Ymm) {
        // The bytes of an element hold the codes of this pair and of the next but one, so the compiler looks both up at once.
        let codes = Self::codes(line, part, pair);
        let low = _mm256_shuffle_epi8(self.low, codes);
        let high = _mm256_shuffle_epi8(self.high, codes);
        let upper = upper_bytes();
        let halves = if pair < 2 {
            _mm256_blendv_epi8(low, _mm256_slli_epi16(high, 8), upper)
        } else {
            _mm256_blendv_epi8(_mm256_srli_epi16(low, 8), high, upper)
        };
        from_pairs(halves)
    }
}

impl Nibbles {
    /// Bytes with the codes of a pair and of the next but one.
    #[inline(always)]
    unsafe fn codes(line: *const u8, part: usize, pair: usize) -> __m256i {
        let codes = _mm256_loadu_si256(line.add(32 * part).cast());
        let codes = if pair.is_multiple_of(2) { codes } else { _mm256_srli_epi16(codes, 4) };
        _mm256_and_si256(codes, _mm256_set1_epi8(0xF))
    }
}

/// The upper bytes of all elements.
#[inline(always)]
unsafe fn upper_bytes() -> __m256i {
    _mm256_set1_epi16(0xFF00_u16 as i16)
}

impl Integers for Ymm {
    type Pairs = __m256i;
    type Sums = __m256i;

    #[inline(always)]
    unsafe fn nothing() -> __m256i {
        _mm256_setzero_si256()
    }

    #[inline(always)]
    unsafe fn splat_pair(from: *const u16) -> __m256i {
        _mm256_set1_epi32(from.cast::<i32>().read_unaligned())
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const u16) -> __m256i {
        _mm256_loadu_si256(from.cast())
    }

    #[inline(always)]
    unsafe fn store_pairs(pairs: __m256i, to: *mut u16) {
        _mm256_storeu_si256(to.cast(), pairs);
    }

    #[inline(always)]
    unsafe fn centred(pairs: __m256i, zero_points: *const i8, unit: i16) -> __m256i {
        let zero_points = _mm_loadl_epi64(zero_points.cast());
        let twice = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(zero_points, zero_points));
        _mm256_sub_epi16(pairs, _mm256_mullo_epi16(twice, _mm256_set1_epi16(unit)))
    }

    #[inline(always)]
    unsafe fn values(sums: __m256i) -> Self {
        Self(_mm256_cvtepi32_ps(sums))
    }
}

/// Products by one instruction, sums by another.
pub(crate) struct Apart;

impl Dot<Ymm> for Apart {
    #[inline(always)]
    unsafe fn add(sums: __m256i, weights: __m256i, x: __m256i) -> __m256i {
        _mm256_add_epi32(sums, _mm256_madd_epi16(weights, x))
    }
}

impl IntegerDecode<Ymm> for Nibbles {
    /// The upper bytes of the elements, which spares shifts with their signs.
    const UNIT: f32 = 256.0;

    #[inline(always)]
    unsafe fn integers(self, line: *const u8, part: usize, pair: usize) -> __m256i {
        let bytes = _mm256_shuffle_epi8(self.integers, Self::codes(line, part, pair));
        if pair < 2 { _mm256_slli_epi16(bytes, 8) } else { _mm256_and_si256(bytes, upper_bytes()) }
    }
}

impl IntegerDecode<Ymm> for Int8 {
    const UNIT: f32 = 1.0;

    #[inline(always)]
    unsafe fn integers(self, line: *const u8, part: usize, pair: usize) -> __m256i {
        let (even, odd) = (column(line, part, 2 * pair), column(line, part, 2 * pair + 1));
        _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(even, odd))
    }
}

/// The values of pairs of bfloat16.
#[inline(always)]
unsafe fn from_pairs(pairs: __m256i) -> (Ymm, Ymm) {
    let odd = _mm256_blend_epi16(pairs, _mm256_setzero_si256(), 0x55);
    (Ymm(_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16))), Ymm(_mm256_castsi256_ps(odd)))
}

/// Eight codes of an input feature.
#[inline(always)]
unsafe fn column(line: *const u8, part: usize, column: usize) -> __m128i {
    _mm_loadl_epi64(line.add(16 * column + 8 * part).cast())
}

impl Decode<Ymm> for E4M3 {
    const COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn new(_codebook: &Codebook) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, part: usize, pair: usize) -> (Ymm, Ymm) {
        // Read as IEEE half precision, whose exponents have a bias of 15 instead of 7.
        // SAFETY: the trait's condition.
        let values = |codes| unsafe {
            let shifted = _mm_slli_epi16(_mm_cvtepi8_epi16(codes), 7);
            let halves = _mm_and_si128(shifted, _mm_set1_epi16(0xBF80_u16 as i16));
            Ymm(_mm256_cvtph_ps(halves)).mul(Ymm::splat(256.0))
        };
        (values(column(line, part, 2 * pair)), values(column(line, part, 2 * pair + 1)))
    }
}

impl Decode<Ymm> for E5M2 {
    const COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn new(_codebook: &Codebook) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, part: usize, pair: usize) -> (Ymm, Ymm) {
        // SAFETY: the trait's condition.
        let values = |codes| unsafe { Ymm(_mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(codes), 8))) };
        (values(column(line, part, 2 * pair)), values(column(line, part, 2 * pair + 1)))
    }
}

impl Decode<Ymm> for Int8 {
    const COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn new(_codebook: &Codebook) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, part: usize, pair: usize) -> (Ymm, Ymm) {
        let codes = line.add(32 * pair + 8 * part).cast::<i8>();
        (Ymm::load_i8(codes), Ymm::load_i8(codes.add(16)))
    }
}

impl Decode<Ymm> for Bf16 {
    const COLUMNS: usize = 2;

    #[inline(always)]
    unsafe fn new(_codebook: &Codebook) -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn pair(self, line: *const u8, part: usize, _pair: usize) -> (Ymm, Ymm) {
        from_pairs(_mm256_loadu_si256(line.add(32 * part).cast()))
    }
}
