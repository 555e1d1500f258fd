//! Sums of panels by fused multiply-add for many tokens: a block of weights is decoded into the first-level cache, and multiplied
//! by all tokens from there.

use std::ops::Range;

use crate::lanes::{Decode, Lanes};
use crate::matrix::{LINE, Matrix, PANEL};
use crate::prepare::View;
use crate::reference::BLOCK;
use crate::walk::{Grouping, Walk};

/// A block of weights, input features by the output features of a panel.
#[repr(C, align(64))]
struct Weights([[f32; PANEL]; BLOCK]);

/// Adds to `acc`, as [`crate::panel::accumulate`], which is 0.
///
/// # Safety
/// As of [`crate::panel::accumulate`].
#[inline(always)]
pub(crate) unsafe fn accumulate<V: Lanes, D: Decode<V>, G: Grouping>(
    matrix: &Matrix,
    panels: Range<usize>,
    x: View<'_>,
    acc: &mut [f32],
) {
    let groups = matrix.groups;
    let mut weights = Weights([[0.0; PANEL]; BLOCK]);
    let mut of_group = vec![0.0; if G::THROUGH { 0 } else { x.tokens * PANEL }];
    for g in 0..groups.count {
        for (panel, acc) in panels.clone().zip(acc.chunks_exact_mut(x.tokens * PANEL)) {
            // SAFETY: the caller's condition.
            unsafe {
                let walk = Walk::<V, D>::new(matrix, panel);
                let sums = if G::THROUGH { &mut *acc } else { &mut of_group[..] };
                let mut line = walk.lines(g);
                for first in (0..groups.len(g)).step_by(BLOCK) {
                    let features = (groups.len(g) - first).min(BLOCK);
                    let lines = features.div_ceil(D::COLUMNS);
                    decode::<V, D, G>(&walk, g, line, lines, &mut weights);
                    line = line.add(lines * LINE);
                    let at = g * groups.blocks_each * BLOCK + first;
                    let whole = lines * D::COLUMNS;
                    let mut token = 0;
                    while token < x.tokens {
                        let sums = &mut sums[token * PANEL..];
                        token += match x.tokens - token {
                            // Twelve chains of sums hide the latency of an addition, in one vector or two for a token.
                            12.. if V::COUNT == PANEL => {
                                add_block::<V, 12>(&weights, whole, x, token, at, sums)
                            }
                            6.. => add_block::<V, 6>(&weights, whole, x, token, at, sums),
                            4.. => add_block::<V, 4>(&weights, whole, x, token, at, sums),
                            2.. => add_block::<V, 2>(&weights, whole, x, token, at, sums),
                            _ => add_block::<V, 1>(&weights, whole, x, token, at, sums),
                        };
                    }
                }
                if !G::THROUGH {
                    for (sums, acc) in of_group.chunks_exact_mut(PANEL).zip(acc.chunks_exact_mut(PANEL)) {
                        for part in 0..PANEL / V::COUNT {
                            let sum = V::load(sums[part * V::COUNT..].as_ptr());
                            walk.add_group(g, part, [sum], acc);
                        }
                        sums.fill(0.0);
                    }
                }
            }
        }
    }
}

/// # Safety
/// As of [`Walk::new`]; `line` points to `lines` lines of group `g`, one block at most.
#[inline(always)]
unsafe fn decode<V: Lanes, D: Decode<V>, G: Grouping>(
    walk: &Walk<'_, V, D>,
    g: usize,
    line: *const u8,
    lines: usize,
    to: &mut Weights,
) {
    for part in 0..PANEL / V::COUNT {
        // SAFETY: the caller's condition.
        unsafe {
            let operand = G::operand(walk, g, part);
            for l in 0..lines {
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

/// Adds the products of a block for `T` tokens from `token`, whose input features of the block begin at `at`; yields `T`.
///
/// # Safety
/// The instruction set of `V` is enabled; the tokens exist, with `features` input features from `at`.
#[inline(always)]
unsafe fn add_block<V: Lanes, const T: usize>(
    weights: &Weights,
    features: usize,
    x: View<'_>,
    token: usize,
    at: usize,
    sums: &mut [f32],
) -> usize {
    /// Vectors that sums are held of at once.
    const WIDE: usize = 2;
    let rows: [*const f32; T] = std::array::from_fn(|t| x.row(token + t)[at..].as_ptr());
    // SAFETY: the caller's condition; every pointer is to a part of a panel.
    unsafe {
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
/// As of [`add_block`]; there are `W` parts of a panel from `part`.
#[inline(always)]
unsafe fn add_parts<V: Lanes, const T: usize, const W: usize>(
    weights: &Weights,
    features: usize,
    rows: &[*const f32; T],
    part: usize,
    sums: &mut [f32],
) {
    // SAFETY: the caller's condition.
    unsafe {
        // One after the other: the sums of both would not fit the registers.
        let even = chain::<V, T, W>(weights, 0, features, rows, part);
        let odd = chain::<V, T, W>(weights, 1, features, rows, part);
        for t in 0..T {
            for w in 0..W {
                let sum = sums[t * PANEL + (part + w) * V::COUNT..].as_mut_ptr();
                V::load(sum).add(even[t][w].add(odd[t][w])).store(sum);
            }
        }
    }
}

/// The sums of every other input feature from `first`.
///
/// # Safety
/// As of [`add_parts`].
#[inline(always)]
unsafe fn chain<V: Lanes, const T: usize, const W: usize>(
    weights: &Weights,
    first: usize,
    features: usize,
    rows: &[*const f32; T],
    part: usize,
) -> [[V; W]; T] {
    // SAFETY: the caller's condition.
    unsafe {
        let mut sums = [[V::splat(0.0); W]; T];
        for feature in (first..features).step_by(2) {
            let row = weights.0.get_unchecked(feature).as_ptr().add(part * V::COUNT);
            let mut weight = [V::splat(0.0); W];
            for (w, weight) in weight.iter_mut().enumerate() {
                *weight = V::load(row.add(w * V::COUNT));
            }
            for t in 0..T {
                let x = V::splat(*rows[t].add(feature));
                for w in 0..W {
                    sums[t][w] = x.fma(weight[w], sums[t][w]);
                }
            }
        }
        sums
    }
}
