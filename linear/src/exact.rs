//! Sums of panels by products of integers, of which an instruction has twice as many as of floats: for blocks of quantized tokens
//! and weights whose sums are exact, and so the same in any order. The others are added as everywhere.

use std::marker::PhantomData;
use std::ops::Range;

use crate::blocks::Place;
use crate::few::{self, AHEAD, Blocks, Floats};
use crate::kinds::by_integer_kind;
use crate::lanes::integers::{Dot, IntegerDecode, IntegerGrouping, Integers};
use crate::matrix::Matrix;
use crate::prepare::View;
use crate::tiling::{BLOCK, LINE, PANEL};
use crate::walk::Walk;

/// A block of weights: pairs of input features by the output features of a panel.
#[repr(C, align(64))]
pub(crate) struct Weights {
    pairs: [[u16; 2 * PANEL]; BLOCK / 2],
    /// What sums are multiplied by.
    factors: [f32; PANEL],
}

impl Weights {
    pub(crate) const ZERO: Self = Self { pairs: [[0; 2 * PANEL]; BLOCK / 2], factors: [0.0; PANEL] };
}

/// As [`few::accumulate`].
///
/// # Safety
/// As of [`few::accumulate`].
#[inline(always)]
pub(crate) unsafe fn accumulate_few<V: Integers, I: Dot<V>>(
    matrix: &Matrix,
    panels: Range<usize>,
    x: View<'_>,
    acc: &mut [f32],
) where
    V::Nibbles: IntegerDecode<V>,
    V::Int8: IntegerDecode<V>,
{
    // SAFETY: the caller's condition.
    unsafe {
        by_integer_kind!(matrix, V, few_of_kind [V] [I] (matrix, panels, x, acc), else {
            few::accumulate::<V>(matrix, panels, x, acc)
        });
    }
}

/// # Safety
/// As of [`few::accumulate`].
#[inline(always)]
unsafe fn few_of_kind<V: Integers, D: IntegerDecode<V>, G: IntegerGrouping, I: Dot<V>>(
    matrix: &Matrix,
    panels: Range<usize>,
    x: View<'_>,
    acc: &mut [f32],
) {
    // SAFETY: the caller's condition.
    unsafe { few::by_tokens::<V, D, G, Exact<I>>(matrix, panels, x, acc) }
}

/// By products of integers, where they are exact.
struct Exact<I>(PhantomData<I>);

impl<V: Integers, D: IntegerDecode<V>, G: IntegerGrouping, I: Dot<V>> Blocks<V, D, G> for Exact<I> {
    #[inline(always)]
    unsafe fn add<const T: usize, const P: usize>(
        walks: &[Walk<'_, V, D>; P],
        operands: &[V; P],
        lines: &[*const u8; P],
        place: few::Place,
        x: View<'_>,
        sums: &mut [[V; T]; P],
    ) {
        let few::Place { group, before, part } = place;
        let groups = walks[0].groups();
        let block = group * groups.blocks_each + before;
        let mut units = [0.0; T];
        for (t, unit) in units.iter_mut().enumerate() {
            *unit = x.unit(t, block);
        }
        // SAFETY: the caller's condition.
        unsafe {
            if units.contains(&0.0) {
                <Floats as Blocks<V, D, G>>::add::<T, P>(walks, operands, lines, place, x, sums);
                return;
            }
            let features = (groups.len(group) - before * BLOCK).min(BLOCK);
            let first = before * BLOCK / D::COLUMNS * LINE;
            let mut products = [[V::nothing(); T]; P];
            for l in 0..features.div_ceil(D::COLUMNS) {
                for p in 0..P {
                    let line = lines[p].add(first + l * LINE);
                    V::prefetch(line.wrapping_add(AHEAD));
                    for pair in 0..D::COLUMNS / 2 {
                        let weights = walks[p].decode.integers(line, part, pair);
                        let weights = G::integers::<V, D>(weights, walks[p].zero_points(group, part));
                        let at = block * BLOCK + l * D::COLUMNS + 2 * pair;
                        for (t, products) in products[p].iter_mut().enumerate() {
                            let x = V::splat_pair(x.integers(t).as_ptr().add(at));
                            *products = I::add(*products, weights, x);
                        }
                    }
                }
            }
            for p in 0..P {
                for t in 0..T {
                    let value = V::values(products[p][t]).mul(V::splat(units[t] * walks[p].unit() / D::UNIT));
                    let value = if G::THROUGH { value.mul(operands[p]) } else { value };
                    sums[p][t] = sums[p][t].add(value);
                }
            }
        }
    }
}

/// Decodes a block, if its weights are integers; or yields `false`.
///
/// # Safety
/// The instruction set of `V` is enabled; the block exists.
#[inline(always)]
pub(crate) unsafe fn decode<V: Integers>(matrix: &Matrix, place: Place, to: &mut Weights) -> bool
where
    V::Nibbles: IntegerDecode<V>,
    V::Int8: IntegerDecode<V>,
{
    // SAFETY: the caller's condition.
    unsafe {
        by_integer_kind!(matrix, V, decode_kind [V] [] (matrix, place, to), else { return false });
    }
    true
}

/// # Safety
/// As of [`decode`].
#[inline(always)]
unsafe fn decode_kind<V: Integers, D: IntegerDecode<V>, G: IntegerGrouping>(
    matrix: &Matrix,
    place: Place,
    to: &mut Weights,
) {
    let Place { panel, group, before } = place;
    let features = (matrix.groups.len(group) - before * BLOCK).min(BLOCK);
    // SAFETY: the caller's condition; a block has at most as many pairs as `Weights`.
    unsafe {
        let walk = Walk::<V, D>::new(matrix, panel);
        let line = walk.lines(group).add(before * BLOCK / D::COLUMNS * LINE);
        for part in 0..PANEL / V::COUNT {
            let unit = V::splat(walk.unit() / D::UNIT);
            let factors = if G::THROUGH { G::operand(&walk, group, part).mul(unit) } else { unit };
            factors.store(to.factors[part * V::COUNT..].as_mut_ptr());
            for l in 0..features.div_ceil(D::COLUMNS) {
                V::prefetch(line.wrapping_add(l * LINE + AHEAD));
                for pair in 0..D::COLUMNS / 2 {
                    let weights = walk.decode.integers(line.add(l * LINE), part, pair);
                    let weights = G::integers::<V, D>(weights, walk.zero_points(group, part));
                    let row = &mut to.pairs[l * D::COLUMNS / 2 + pair];
                    V::store_pairs(weights, row[2 * part * V::COUNT..].as_mut_ptr());
                }
            }
        }
    }
}

/// Adds the products of the first `features` rows of a block, and of those of `tokens` in the block `block`, to `sums`
/// `[token][16]`.
///
/// # Safety
/// The instruction set of `V` is enabled; the tokens have integers in the block.
#[inline(always)]
pub(crate) unsafe fn add<V: Integers, I: Dot<V>>(
    weights: &Weights,
    features: usize,
    x: View<'_>,
    tokens: Range<usize>,
    block: usize,
    sums: &mut [f32],
) {
    let mut token = tokens.start;
    while token < tokens.end {
        // SAFETY: the caller's condition.
        unsafe {
            match tokens.end - token {
                8.. if V::COUNT == PANEL => {
                    add_tokens::<V, I, 8>(weights, features, x, token, block, sums);
                    token += 8;
                }
                4.. => {
                    add_tokens::<V, I, 4>(weights, features, x, token, block, sums);
                    token += 4;
                }
                _ => {
                    add_tokens::<V, I, 1>(weights, features, x, token, block, sums);
                    token += 1;
                }
            }
        }
    }
}

/// The same for `T` tokens from `token`.
///
/// # Safety
/// As of [`add`].
#[inline(always)]
unsafe fn add_tokens<V: Integers, I: Dot<V>, const T: usize>(
    weights: &Weights,
    features: usize,
    x: View<'_>,
    token: usize,
    block: usize,
    sums: &mut [f32],
) {
    let sums = &mut sums[token * PANEL..][..T * PANEL];
    // SAFETY: the caller's condition.
    unsafe {
        let mut rows = [std::ptr::null(); T];
        let mut units = [0.0; T];
        for t in 0..T {
            rows[t] = x.integers(token + t).as_ptr().add(block * BLOCK);
            units[t] = x.unit(token + t, block);
        }
        let mut part = 0;
        while part * V::COUNT < PANEL {
            if (part + 2) * V::COUNT <= PANEL {
                add_parts::<V, I, T, 2>(weights, features, &rows, &units, part, sums);
                part += 2;
            } else {
                add_parts::<V, I, T, 1>(weights, features, &rows, &units, part, sums);
                part += 1;
            }
        }
    }
}

/// # Safety
/// As of [`add_tokens`]; there are `W` parts of a panel from `part`.
#[inline(always)]
unsafe fn add_parts<V: Integers, I: Dot<V>, const T: usize, const W: usize>(
    weights: &Weights,
    features: usize,
    rows: &[*const u16; T],
    units: &[f32; T],
    part: usize,
    sums: &mut [f32],
) {
    // SAFETY: the caller's condition; every pointer is to a part of a panel.
    unsafe {
        let mut products = [[V::nothing(); W]; T];
        for pair in 0..features.div_ceil(2) {
            let row = weights.pairs.as_ptr().add(pair).cast::<u16>().add(2 * part * V::COUNT);
            for t in 0..T {
                let x = V::splat_pair(rows[t].add(2 * pair));
                for (w, products) in products[t].iter_mut().enumerate() {
                    *products = I::add(*products, V::load_pairs(row.add(2 * w * V::COUNT)), x);
                }
            }
        }
        for t in 0..T {
            for (w, products) in products[t].iter().enumerate() {
                let at = (part + w) * V::COUNT;
                let factors = V::load(weights.factors.as_ptr().add(at)).mul(V::splat(units[t]));
                let sum = sums.as_mut_ptr().add(t * PANEL + at);
                V::load(sum).add(V::values(*products).mul(factors)).store(sum);
            }
        }
    }
}
