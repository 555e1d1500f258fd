//! Blocks of weights by fused multiply-add: decoded once into the first-level cache, and multiplied by many tokens from there.

use std::ops::Range;

use crate::few::AHEAD;
use crate::kinds::by_kind;
use crate::lanes::{Decode, Lanes};
use crate::matrix::Matrix;
use crate::prepare::View;
use crate::tiling::{BLOCK, LINE, PANEL};
use crate::walk::{Grouping, Walk};

/// A block of weights, input features by the output features of a panel.
#[repr(C, align(64))]
pub(crate) struct Weights([[f32; PANEL]; BLOCK]);

impl Weights {
    pub(crate) const ZERO: Self = Self([[0.0; PANEL]; BLOCK]);
}

/// A block of a panel: its panel, its group, and blocks of the group before it.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub panel: usize,
    pub group: usize,
    pub before: usize,
}

/// Decodes a block.
///
/// # Safety
/// The instruction set of `V` is enabled; the block exists.
#[inline(always)]
pub(crate) unsafe fn decode<V: Lanes>(matrix: &Matrix, place: Place, to: &mut Weights) {
    // SAFETY: the caller's condition.
    unsafe { by_kind!(matrix, V, decode_kind [V] [] (matrix, place, to)) }
}

/// # Safety
/// As of [`decode`].
#[inline(always)]
unsafe fn decode_kind<V: Lanes, D: Decode<V>, G: Grouping>(matrix: &Matrix, place: Place, to: &mut Weights) {
    let Place { panel, group, before } = place;
    let features = (matrix.groups.len(group) - before * BLOCK).min(BLOCK);
    // SAFETY: the caller's condition; a block has at most as many rows as `Weights`.
    unsafe {
        let walk = Walk::<V, D>::new(matrix, panel);
        let line = walk.lines(group).add(before * BLOCK / D::COLUMNS * LINE);
        for part in 0..PANEL / V::COUNT {
            let operand = G::operand(&walk, group, part);
            for l in 0..features.div_ceil(D::COLUMNS) {
                V::prefetch(line.wrapping_add(l * LINE + AHEAD));
                for pair in 0..D::COLUMNS / 2 {
                    let (even, odd) = walk.decode.pair(line.add(l * LINE), part, pair);
                    let row = l * D::COLUMNS + 2 * pair;
                    G::weight(even, operand).store(to.0[row][part * V::COUNT..].as_mut_ptr());
                    G::weight(odd, operand).store(to.0[row + 1][part * V::COUNT..].as_mut_ptr());
                }
            }
        }
    }
}

/// Adds the sums of a group `[token][16]`, times its scales, to those of the groups before.
///
/// # Safety
/// The instruction set of `V` is enabled.
#[inline(always)]
pub(crate) unsafe fn scale<V: Lanes>(sums: &[f32], scales: &[f32; PANEL], acc: &mut [f32]) {
    for part in (0..PANEL).step_by(V::COUNT) {
        // SAFETY: the caller's condition; every pointer is to a part of a panel.
        unsafe {
            let scale = V::load(scales[part..].as_ptr());
            for (sum, acc) in sums.chunks_exact(PANEL).zip(acc.chunks_exact_mut(PANEL)) {
                let acc = acc[part..].as_mut_ptr();
                V::load(sum[part..].as_ptr()).fma(scale, V::load(acc)).store(acc);
            }
        }
    }
}

/// Adds the products of the first `features` rows of a block, and of those of `tokens` in the block `block`, to `sums`
/// `[token][16]`.
///
/// # Safety
/// The instruction set of `V` is enabled; the tokens and the block exist.
#[inline(always)]
pub(crate) unsafe fn add<V: Lanes>(
    weights: &Weights,
    features: usize,
    x: View<'_>,
    tokens: Range<usize>,
    block: usize,
    sums: &mut [f32],
) {
    let at = block * BLOCK;
    let mut token = tokens.start;
    while token < tokens.end {
        let sums = &mut sums[token * PANEL..];
        // SAFETY: the caller's condition.
        token += unsafe {
            match tokens.end - token {
                // Eight chains of sums and more hide the latency of an addition: two for a token and a vector, in one vector or two.
                12.. if V::COUNT == PANEL => add_tokens::<V, 12>(weights, features, x, token, at, sums),
                6.. if V::COUNT == PANEL => add_tokens::<V, 6>(weights, features, x, token, at, sums),
                3 | 5.. => add_tokens::<V, 3>(weights, features, x, token, at, sums),
                2 | 4 => add_tokens::<V, 2>(weights, features, x, token, at, sums),
                _ => add_tokens::<V, 1>(weights, features, x, token, at, sums),
            }
        };
    }
}

/// The same for `T` tokens from `token`; yields `T`.
///
/// # Safety
/// As of [`add`]; the tokens exist.
#[inline(always)]
unsafe fn add_tokens<V: Lanes, const T: usize>(
    weights: &Weights,
    features: usize,
    x: View<'_>,
    token: usize,
    at: usize,
    sums: &mut [f32],
) -> usize {
    /// Vectors that sums are held of at once.
    const WIDE: usize = 2;
    let sums = &mut sums[..T * PANEL];
    // SAFETY: the caller's condition; every pointer is to a part of a panel.
    unsafe {
        let rows: [*const f32; T] = std::array::from_fn(|t| x.row(token + t).as_ptr().add(at));
        let mut part = 0;
        while part * V::COUNT < PANEL {
            if (part + WIDE) * V::COUNT <= PANEL {
                add_parts::<V, T, WIDE>(weights, features, &rows, part, sums);
                part += WIDE;
            } else {
                add_parts::<V, T, 1>(weights, features, &rows, part, sums);
                part += 1;
            }
        }
    }
    T
}

/// # Safety
/// As of [`add_tokens`]; there are `W` parts of a panel from `part`.
#[inline(always)]
unsafe fn add_parts<V: Lanes, const T: usize, const W: usize>(
    weights: &Weights,
    features: usize,
    rows: &[*const f32; T],
    part: usize,
    sums: &mut [f32],
) {
    // SAFETY: the caller's condition; rows of weights and of tokens are filled up to an even number.
    unsafe {
        let mut even = [[V::splat(0.0); W]; T];
        let mut odd = [[V::splat(0.0); W]; T];
        for feature in (0..features).step_by(2) {
            let mut weight = [[V::splat(0.0); 2]; W];
            for (w, weight) in weight.iter_mut().enumerate() {
                let column = weights.0.as_ptr().add(feature).cast::<f32>().add((part + w) * V::COUNT);
                *weight = [V::load(column), V::load(column.add(PANEL))];
            }
            for t in 0..T {
                let x = rows[t].add(feature);
                let x = [V::splat(*x), V::splat(*x.add(1))];
                for w in 0..W {
                    even[t][w] = x[0].fma(weight[w][0], even[t][w]);
                    odd[t][w] = x[1].fma(weight[w][1], odd[t][w]);
                }
            }
        }
        for t in 0..T {
            for w in 0..W {
                let sum = sums.as_mut_ptr().add(t * PANEL + (part + w) * V::COUNT);
                V::load(sum).add(even[t][w].add(odd[t][w])).store(sum);
            }
        }
    }
}
