//! Vectors of integers of 16 bits, two for each lane, whose products are added in 32 bits.
//!
//! As of everything in [`super`], functions are called where the instruction set is enabled.

use super::{Decode, Lanes};
use crate::walk::{Centred, Grouping, Scaled, Through};

/// Vectors of as many lanes as `Self` has.
///
/// # Safety
/// As of [`Lanes`].
pub(crate) trait Integers: Lanes {
    /// For each lane, the two of a pair of input features.
    type Pairs: Copy;
    /// For each lane, a sum.
    type Sums: Copy;

    /// Sums of nothing.
    unsafe fn nothing() -> Self::Sums;
    /// The pair in memory, for all lanes.
    unsafe fn splat_pair(from: *const u16) -> Self::Pairs;
    /// From memory.
    unsafe fn load_pairs(from: *const u16) -> Self::Pairs;
    /// To memory.
    unsafe fn store_pairs(pairs: Self::Pairs, to: *mut u16);
    /// Less `unit` times the zero points in memory.
    unsafe fn centred(pairs: Self::Pairs, zero_points: *const i8, unit: i16) -> Self::Pairs;
    /// As floats.
    unsafe fn values(sums: Self::Sums) -> Self;
}

/// Products of integers.
///
/// # Safety
/// As of [`Lanes`].
pub(crate) trait Dot<V: Integers> {
    /// Adds the two products of every lane.
    unsafe fn add(sums: V::Sums, weights: V::Pairs, x: V::Pairs) -> V::Sums;
}

/// Codes whose values are multiples of the least one.
///
/// # Safety
/// As of [`Decode`].
pub(crate) trait IntegerDecode<V: Integers>: Decode<V> {
    /// What the integers are multiples of, a power of two.
    const UNIT: f32;

    /// The input features `2 pair` and `2 pair + 1` of part `part` of a line, as multiples of the least value over `UNIT`.
    unsafe fn integers(self, line: *const u8, part: usize, pair: usize) -> V::Pairs;
}

/// A [`Grouping`] of weights that are integers. Factors are for their sums, which they leave exact.
///
/// # Safety
/// As of [`Grouping`].
pub(crate) trait IntegerGrouping: Grouping {
    /// The weights of decoded codes, of a group with these zero points, if it has some.
    #[inline(always)]
    unsafe fn integers<V: Integers, D: IntegerDecode<V>>(
        pairs: V::Pairs,
        _zero_points: *const i8,
    ) -> V::Pairs {
        pairs
    }
}

impl IntegerGrouping for Scaled {}
impl IntegerGrouping for Through {}

impl IntegerGrouping for Centred {
    #[inline(always)]
    unsafe fn integers<V: Integers, D: IntegerDecode<V>>(
        pairs: V::Pairs,
        zero_points: *const i8,
    ) -> V::Pairs {
        // SAFETY: the caller's condition.
        unsafe { V::centred(pairs, zero_points, D::UNIT as i16) }
    }
}
