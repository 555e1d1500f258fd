//! Decoding into pairs of bfloat16, the operand of AMX.
#![allow(unsafe_op_in_unsafe_fn, reason = "the condition is the trait's, for every instruction")]

use std::arch::x86_64::*;

use super::avx512::{Bf16, E4M3, E5M2, Int8, Nibbles, UPPER, Zmm};
use super::{Decode, Lanes};
use crate::matrix::{GroupScales, Matrix};
use crate::walk::{Centred, Grouping, Scaled, Through, Walk};

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
        // place | (indices & 0xF)
        const SELECT: i32 = 0xF8;
        let indices = Self::indices(line, pair);
        let indices = _mm512_ternarylogic_epi32::<SELECT>(factors.place, indices, _mm512_set1_epi16(0xF));
        let octave = _mm512_permutexvar_epi16(indices, self.first_second);
        let octave = _mm512_mask_permutexvar_epi16(octave, factors.third, indices, self.third);
        // Fewer halves than the exponent has: saturation keeps 0 alone.
        _mm512_subs_epu16(octave, factors.halvings)
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

/// The factors of a ladder by shift: how often the place in the first octave is halved, and the place.
#[derive(Clone, Copy)]
pub(crate) struct Ladders {
    halvings: __m512i,
    places: __m512i,
}

/// The factors of a group, for both halves of the lanes of a panel.
#[derive(Clone, Copy)]
pub(crate) struct Factors {
    /// In units of the exponent of bfloat16.
    halvings: __m512i,
    /// The fifth bit of an index: set for the second factor of the octave.
    place: __m512i,
    /// Lanes with the third.
    third: __mmask32,
}

impl Ladders {
    /// For the factors of a matrix, if it has some.
    ///
    /// # Safety
    /// AVX-512 is available.
    #[inline(always)]
    pub(crate) unsafe fn new(matrix: &Matrix) -> Self {
        let octave = match &matrix.scales {
            GroupScales::Ladder(ladder, ..) => ladder.octave().len(),
            GroupScales::One | GroupScales::Floats(_) => 1,
        };
        let twice = |half: u32| half << 16 | half;
        let halvings: [u32; 16] = std::array::from_fn(|shift| twice(((shift / octave) as u32) << 7));
        let places: [u32; 16] = std::array::from_fn(|shift| twice([0, 1 << 4, 1 << 15][shift % octave]));
        Self {
            halvings: _mm512_loadu_si512(halvings.as_ptr().cast()),
            places: _mm512_loadu_si512(places.as_ptr().cast()),
        }
    }

    /// Of shifts, see [`GroupScales::Ladder`].
    ///
    /// # Safety
    /// AVX-512 is available.
    #[inline(always)]
    unsafe fn factors(self, shifts: u64) -> Factors {
        let indices = Zmm::shifts(shifts);
        let place = _mm512_permutexvar_epi32(indices, self.places);
        Factors {
            halvings: _mm512_permutexvar_epi32(indices, self.halvings),
            place,
            third: _mm512_movepi16_mask(place),
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
