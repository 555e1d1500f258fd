//! Decoding into pairs of bfloat16, the operand of AMX.
#![allow(unsafe_op_in_unsafe_fn, reason = "the condition is the trait's, for every instruction")]

use std::arch::x86_64::*;

use super::avx512::{Bf16, E4M3, E5M2, Int8, Nibbles, UPPER, Zmm};
use super::{Decode, Lanes};
use crate::codebook::{below, is_second};
use crate::matrix::{GroupScales, Matrix};
use crate::walk::{Centred, Grouping, Scaled, Stepped, Through, Walk};

/// Codes that become pairs of bfloat16.
///
/// # Safety
/// As of [`Decode`].
pub(crate) trait Pairs: Decode<Zmm> {
    /// The input features `2 pair` and `2 pair + 1` of a line, side by side.
    #[inline(always)]
    unsafe fn pairs(self, line: *const u8, pair: usize) -> __m512i {
        let (even, odd) = self.pair(line, 0, pair);
        side_by_side(even, odd)
    }

    /// The same times the factors of a ladder, for codes of 4 bits; others have no ladder.
    #[inline(always)]
    unsafe fn multiplied(self, line: *const u8, pair: usize, _factors: Factors) -> __m512i {
        self.pairs(line, pair)
    }
}

/// Two vectors of values that are exact in bfloat16, side by side.
#[inline(always)]
unsafe fn side_by_side(even: Zmm, odd: Zmm) -> __m512i {
    let even = _mm512_srli_epi32(_mm512_castps_si512(even.0), 16);
    _mm512_mask_mov_epi16(even, UPPER, _mm512_castps_si512(odd.0))
}

impl Pairs for Nibbles {
    #[inline(always)]
    unsafe fn pairs(self, line: *const u8, pair: usize) -> __m512i {
        _mm512_permutexvar_epi16(Self::indices(line, pair), self.halves)
    }

    #[inline(always)]
    unsafe fn multiplied(self, line: *const u8, pair: usize, factors: Factors) -> __m512i {
        // upper | (indices & 0xF)
        const SELECT: i32 = 0xF8;
        let indices = Self::indices(line, pair);
        let indices = _mm512_ternarylogic_epi32::<SELECT>(factors.upper, indices, _mm512_set1_epi16(0xF));
        _mm512_subs_epu16(_mm512_permutexvar_epi16(indices, self.minuends), factors.below)
    }
}

impl Pairs for E4M3 {}
impl Pairs for E5M2 {}
impl Pairs for Int8 {}
impl Pairs for Bf16 {
    #[inline(always)]
    unsafe fn pairs(self, line: *const u8, _pair: usize) -> __m512i {
        _mm512_loadu_si512(line.cast())
    }
}

/// The steps of a ladder, see [`Codebook::minuends`](crate::codebook::Codebook).
#[derive(Clone, Copy)]
pub(crate) struct Ladders {
    below: __m512i,
    upper: __m512i,
}

/// The step of a group, for both halves of the lanes of a panel.
#[derive(Clone, Copy)]
pub(crate) struct Factors {
    /// See [`below`].
    below: __m512i,
    /// The fifth bit of an index: see [`is_second`].
    upper: __m512i,
}

impl Ladders {
    /// For the factors of a matrix, if it has some.
    ///
    /// # Safety
    /// AVX-512 is available.
    #[inline(always)]
    pub(crate) unsafe fn new(matrix: &Matrix) -> Self {
        let twice = |half: u16| u32::from(half) << 16 | u32::from(half);
        let (below, upper) = match matrix.scales {
            GroupScales::Ladder(ladder, operands, _) => (
                operands.map(|operand| twice(below(ladder, operand))),
                operands.map(|operand| twice(u16::from(is_second(ladder, operand)) << 4)),
            ),
            GroupScales::One | GroupScales::Floats(_) => ([0; 16], [0; 16]),
        };
        Self {
            below: _mm512_loadu_si512(below.as_ptr().cast()),
            upper: _mm512_loadu_si512(upper.as_ptr().cast()),
        }
    }

    /// Of shifts, see [`GroupScales::Ladder`].
    ///
    /// # Safety
    /// AVX-512 is available.
    #[inline(always)]
    unsafe fn factors(self, shifts: u64) -> Factors {
        let indices = Zmm::shifts(shifts);
        Factors {
            below: _mm512_permutexvar_epi32(indices, self.below),
            upper: _mm512_permutexvar_epi32(indices, self.upper),
        }
    }
}

/// A [`Grouping`] of weights that become pairs of bfloat16.
///
/// # Safety
/// As of [`Grouping`].
pub(crate) trait PairGrouping: Grouping {
    /// What the weights of a group are changed by.
    type Operand: Copy;

    /// The operand of a group.
    unsafe fn of_pairs<D: Pairs>(walk: &Walk<'_, Zmm, D>, ladders: Ladders, g: usize) -> Self::Operand;

    /// The weights of input features `2 pair` and `2 pair + 1` of a line, side by side.
    unsafe fn pairs<D: Pairs>(decode: D, line: *const u8, pair: usize, operand: Self::Operand) -> __m512i;
}

impl PairGrouping for Scaled {
    type Operand = ();

    #[inline(always)]
    unsafe fn of_pairs<D: Pairs>(_walk: &Walk<'_, Zmm, D>, _ladders: Ladders, _g: usize) {}

    #[inline(always)]
    unsafe fn pairs<D: Pairs>(decode: D, line: *const u8, pair: usize, _operand: ()) -> __m512i {
        decode.pairs(line, pair)
    }
}

impl PairGrouping for Centred {
    type Operand = Zmm;

    #[inline(always)]
    unsafe fn of_pairs<D: Pairs>(walk: &Walk<'_, Zmm, D>, _ladders: Ladders, g: usize) -> Zmm {
        Self::operand(walk, g, 0)
    }

    #[inline(always)]
    unsafe fn pairs<D: Pairs>(decode: D, line: *const u8, pair: usize, zero_point: Zmm) -> __m512i {
        let (even, odd) = decode.pair(line, 0, pair);
        side_by_side(even.sub(zero_point), odd.sub(zero_point))
    }
}

impl PairGrouping for Through {
    type Operand = Factors;

    #[inline(always)]
    unsafe fn of_pairs<D: Pairs>(walk: &Walk<'_, Zmm, D>, ladders: Ladders, g: usize) -> Factors {
        ladders.factors(walk.shifts(g))
    }

    #[inline(always)]
    unsafe fn pairs<D: Pairs>(decode: D, line: *const u8, pair: usize, factors: Factors) -> __m512i {
        decode.multiplied(line, pair, factors)
    }
}

impl PairGrouping for Stepped {
    type Operand = Factors;

    #[inline(always)]
    unsafe fn of_pairs<D: Pairs>(walk: &Walk<'_, Zmm, D>, ladders: Ladders, g: usize) -> Factors {
        ladders.factors(walk.shifts(g))
    }

    #[inline(always)]
    unsafe fn pairs<D: Pairs>(decode: D, line: *const u8, pair: usize, factors: Factors) -> __m512i {
        decode.multiplied(line, pair, factors)
    }
}
