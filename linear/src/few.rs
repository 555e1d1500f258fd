//! Sums of panels by fused multiply-add for few tokens, which are multiplied by what is decoded while it is in registers.

use std::ops::Range;

use crate::lanes::{Decode, Lanes};
use crate::matrix::{Coding, GroupScales, LINE, Matrix, PANEL};
use crate::prepare::View;
use crate::reference::BLOCK;
use crate::walk::{Centred, Grouping, Scaled, Through, Walk, by_kind};

/// Bytes that codes are fetched ahead, as memory is the bound.
const AHEAD: usize = 1024;

/// Tokens that are few.
pub(crate) const TOKENS: usize = 2;

/// Adds the sums of `panels` over all groups to `acc` `[panel][token][16]`, for the one or two tokens of `x`.
///
/// # Safety
/// The instruction set of `V` is enabled; `panels` exist; `x` is divided into blocks as the matrix is.
#[inline(always)]
pub(crate) unsafe fn accumulate<V: Lanes>(
    matrix: &Matrix,
    panels: Range<usize>,
    x: View<'_>,
    acc: &mut [f32],
) {
    // SAFETY: the caller's condition.
    unsafe { by_kind!(matrix, V, by_tokens [V] [] (matrix, panels, x, acc)) }
}

/// Several panels at once, so that there are eight chains of sums to hide the latency of an addition.
///
/// # Safety
/// As of [`accumulate`].
#[inline(always)]
unsafe fn by_tokens<V: Lanes, D: Decode<V>, G: Grouping>(
    matrix: &Matrix,
    panels: Range<usize>,
    x: View<'_>,
    acc: &mut [f32],
) {
    // SAFETY: the caller's condition.
    unsafe {
        match x.tokens {
            1 if V::REGISTERS <= 16 => by_panels::<V, D, G, 1, 2>(matrix, panels, x, acc),
            1 => by_panels::<V, D, G, 1, 4>(matrix, panels, x, acc),
            2 if V::REGISTERS <= 16 => by_panels::<V, D, G, 2, 1>(matrix, panels, x, acc),
            2 => by_panels::<V, D, G, 2, 2>(matrix, panels, x, acc),
            tokens => unreachable!("{tokens} are not few"),
        }
    }
}

/// The sums of `T` tokens, `P` panels at once.
///
/// # Safety
/// As of [`accumulate`]; there are `T` tokens.
#[inline(always)]
unsafe fn by_panels<V: Lanes, D: Decode<V>, G: Grouping, const T: usize, const P: usize>(
    matrix: &Matrix,
    panels: Range<usize>,
    x: View<'_>,
    acc: &mut [f32],
) {
    let mut panel = panels.start;
    while panel < panels.end {
        let acc = &mut acc[(panel - panels.start) * T * PANEL..];
        // SAFETY: the caller's condition.
        unsafe {
            if panel + P <= panels.end {
                some::<V, D, G, T, P>(matrix, panel, x, acc);
                panel += P;
            } else {
                some::<V, D, G, T, 1>(matrix, panel, x, acc);
                panel += 1;
            }
        }
    }
}

/// # Safety
/// As of [`by_panels`]; there are `P` panels from `panel`, and `acc` begins with the first of them.
#[inline(always)]
unsafe fn some<V: Lanes, D: Decode<V>, G: Grouping, const T: usize, const P: usize>(
    matrix: &Matrix,
    panel: usize,
    x: View<'_>,
    acc: &mut [f32],
) {
    let rows: [*const f32; T] = std::array::from_fn(|t| x.row(t).as_ptr());
    // SAFETY: the caller's condition; rows and lines have the lengths that `Groups` says, and every pointer into `acc` is to a part
    // of a panel.
    unsafe {
        let walks: [Walk<'_, V, D>; P] = std::array::from_fn(|p| Walk::new(matrix, panel + p));
        for g in 0..matrix.groups.count {
            for part in 0..PANEL / V::COUNT {
                let at = |p: usize, t: usize| (p * T + t) * PANEL + part * V::COUNT;
                let mut sums = [[V::splat(0.0); T]; P];
                if G::THROUGH {
                    for p in 0..P {
                        for t in 0..T {
                            sums[p][t] = V::load(acc[at(p, t)..].as_ptr());
                        }
                    }
                }
                add_group::<V, D, G, T, P>(&walks, g, part, &rows, &mut sums);
                for p in 0..P {
                    if G::THROUGH {
                        for t in 0..T {
                            sums[p][t].store(acc[at(p, t)..].as_mut_ptr());
                        }
                    } else {
                        walks[p].add_group(g, part, sums[p], &mut acc[p * T * PANEL..][..T * PANEL]);
                    }
                }
            }
        }
    }
}

/// Adds the products of a group for `T` tokens and `P` panels to `sums`.
///
/// # Safety
/// As of [`Walk::new`]; `rows` point to tokens with as many input features as blocks have.
#[inline(always)]
pub(crate) unsafe fn add_group<V: Lanes, D: Decode<V>, G: Grouping, const T: usize, const P: usize>(
    walks: &[Walk<'_, V, D>; P],
    g: usize,
    part: usize,
    rows: &[*const f32; T],
    sums: &mut [[V; T]; P],
) {
    // SAFETY: the caller's condition.
    unsafe {
        let groups = walks[0].groups();
        let mut operands = [V::splat(0.0); P];
        let mut lines = [std::ptr::null(); P];
        for p in 0..P {
            operands[p] = G::operand(&walks[p], g, part);
            lines[p] = walks[p].lines(g);
        }
        let mut at = g * groups.blocks_each * BLOCK;
        let mut left = groups.len(g);
        while left > 0 {
            let count = left.min(BLOCK).div_ceil(D::COLUMNS);
            let mut even = [[V::splat(0.0); T]; P];
            let mut odd = [[V::splat(0.0); T]; P];
            for l in 0..count {
                for p in 0..P {
                    let line = lines[p].add(l * LINE);
                    V::prefetch(line.wrapping_add(AHEAD));
                    for pair in 0..D::COLUMNS / 2 {
                        let (first, second) = walks[p].decode.pair(line, part, pair);
                        let first = G::weight(first, operands[p]);
                        let second = G::weight(second, operands[p]);
                        for t in 0..T {
                            let x = rows[t].add(at + l * D::COLUMNS + 2 * pair);
                            even[p][t] = V::splat(*x).fma(first, even[p][t]);
                            odd[p][t] = V::splat(*x.add(1)).fma(second, odd[p][t]);
                        }
                    }
                }
            }
            for p in 0..P {
                for t in 0..T {
                    sums[p][t] = sums[p][t].add(even[p][t].add(odd[p][t]));
                }
                lines[p] = lines[p].add(count * LINE);
            }
            at += BLOCK;
            left = left.saturating_sub(BLOCK);
        }
    }
}
