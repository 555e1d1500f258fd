//! Sums of a panel by fused multiply-add, for any vectors.

use std::ops::Range;

use crate::lanes::{Decode, Lanes};
use crate::matrix::{Coding, LINE, Matrix, PANEL};
use crate::prepare::View;
use crate::reference::BLOCK;
use crate::walk::Walk;

/// Bytes that codes are fetched ahead where memory is the bound, for few tokens.
const AHEAD: usize = 1024;

/// Writes the sums of `panels` over all groups, `acc` `[panel][token][16]`, for the tokens of `x`.
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
    unsafe {
        match (&matrix.coding, matrix.zero_points.is_empty()) {
            (Coding::Nibbles(_), true) => by_tokens::<V, V::Nibbles, false>(matrix, panels, x, acc),
            (Coding::Nibbles(_), false) => by_tokens::<V, V::Nibbles, true>(matrix, panels, x, acc),
            (Coding::Int8, true) => by_tokens::<V, V::Int8, false>(matrix, panels, x, acc),
            (Coding::Int8, false) => by_tokens::<V, V::Int8, true>(matrix, panels, x, acc),
            (Coding::E4M3, _) => by_tokens::<V, V::E4M3, false>(matrix, panels, x, acc),
            (Coding::E5M2, _) => by_tokens::<V, V::E5M2, false>(matrix, panels, x, acc),
            (Coding::Bf16, _) => by_tokens::<V, V::Bf16, false>(matrix, panels, x, acc),
        }
    }
}

/// As many tokens at once as fit the registers; where those are few, several panels, so that there are eight chains of sums to
/// hide the latency of an addition.
///
/// # Safety
/// As of [`accumulate`].
#[inline(always)]
unsafe fn by_tokens<V: Lanes, D: Decode<V>, const ZERO_POINTS: bool>(
    matrix: &Matrix,
    panels: Range<usize>,
    x: View<'_>,
    acc: &mut [f32],
) {
    let mut first = 0;
    while first < x.tokens {
        let left = x.tokens - first;
        // SAFETY: the caller's condition.
        first += unsafe {
            if V::TOKENS >= 8 && left >= 8 {
                by_panels::<V, D, 8, 1, ZERO_POINTS>(matrix, panels.clone(), x, first, acc)
            } else if V::TOKENS >= 4 && left >= 4 {
                by_panels::<V, D, 4, 1, ZERO_POINTS>(matrix, panels.clone(), x, first, acc)
            } else if V::TOKENS >= 4 && left >= 2 {
                by_panels::<V, D, 2, 2, ZERO_POINTS>(matrix, panels.clone(), x, first, acc)
            } else if V::TOKENS >= 4 {
                by_panels::<V, D, 1, 4, ZERO_POINTS>(matrix, panels.clone(), x, first, acc)
            } else {
                by_panels::<V, D, 1, 1, ZERO_POINTS>(matrix, panels.clone(), x, first, acc)
            }
        };
    }
}

/// The sums of `T` tokens, `P` panels at once; yields `T`.
///
/// # Safety
/// As of [`accumulate`]; there are `T` tokens from `first`.
#[inline(always)]
unsafe fn by_panels<V: Lanes, D: Decode<V>, const T: usize, const P: usize, const ZERO_POINTS: bool>(
    matrix: &Matrix,
    panels: Range<usize>,
    x: View<'_>,
    first: usize,
    acc: &mut [f32],
) -> usize {
    let mut panel = panels.start;
    while panel < panels.end {
        let acc = &mut acc[(panel - panels.start) * x.tokens * PANEL..];
        // SAFETY: the caller's condition.
        unsafe {
            if panel + P <= panels.end {
                some::<V, D, T, P, ZERO_POINTS>(matrix, panel, x, first, acc);
                panel += P;
            } else {
                some::<V, D, T, 1, ZERO_POINTS>(matrix, panel, x, first, acc);
                panel += 1;
            }
        }
    }
    T
}

/// # Safety
/// As of [`by_panels`]; there are `P` panels from `panel`, and `acc` begins with the first of them.
#[inline(always)]
unsafe fn some<V: Lanes, D: Decode<V>, const T: usize, const P: usize, const ZERO_POINTS: bool>(
    matrix: &Matrix,
    panel: usize,
    x: View<'_>,
    first: usize,
    acc: &mut [f32],
) {
    let acc_of = |p: usize| {
        let first = (p * x.tokens + first) * PANEL;
        first..first + T * PANEL
    };
    for p in 0..P {
        acc[acc_of(p)].fill(0.0);
    }
    let mut rows = [std::ptr::null(); T];
    for (t, row) in rows.iter_mut().enumerate() {
        *row = x.row(first + t).as_ptr();
    }
    // SAFETY: the caller's condition; rows and lines have the lengths that `Groups` says.
    unsafe {
        let walks: [Walk<'_, V, D>; P] = std::array::from_fn(|p| Walk::new(matrix, panel + p));
        for g in 0..matrix.groups.count {
            for part in 0..PANEL / V::COUNT {
                let sums = group::<V, D, T, P, ZERO_POINTS>(&walks, g, part, &rows);
                for p in 0..P {
                    walks[p].finish(g, part, sums[p], &mut acc[acc_of(p)]);
                }
            }
        }
    }
}

/// The sums of a group for `T` tokens and `P` panels.
///
/// # Safety
/// As of [`Walk::new`]; `rows` point to tokens with as many input features as blocks have.
#[inline(always)]
pub(crate) unsafe fn group<
    V: Lanes,
    D: Decode<V>,
    const T: usize,
    const P: usize,
    const ZERO_POINTS: bool,
>(
    walks: &[Walk<'_, V, D>; P],
    g: usize,
    part: usize,
    rows: &[*const f32; T],
) -> [[V; T]; P] {
    // SAFETY: the caller's condition.
    unsafe {
        let groups = walks[0].groups();
        let mut sums = [[V::splat(0.0); T]; P];
        let mut zero_points = [V::splat(0.0); P];
        let mut lines = [std::ptr::null(); P];
        for p in 0..P {
            zero_points[p] = walks[p].zero_point::<ZERO_POINTS>(g, part);
            lines[p] = walks[p].lines(g);
        }
        let mut at = g * groups.blocks_each * BLOCK;
        let mut left = groups.len(g);
        while left > 0 {
            let count = left.min(BLOCK).div_ceil(D::COLUMNS);
            let mut even = [[V::splat(0.0); T]; P];
            let mut odd = [[V::splat(0.0); T]; P];
            for l in 0..count {
                for pair in 0..D::COLUMNS / 2 {
                    for p in 0..P {
                        let line = lines[p].add(l * LINE);
                        if T <= 2 && pair == 0 {
                            V::prefetch(line.wrapping_add(AHEAD));
                        }
                        let (mut first, mut second) = walks[p].decode.pair(line, part, pair);
                        if ZERO_POINTS {
                            (first, second) = (first.sub(zero_points[p]), second.sub(zero_points[p]));
                        }
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
        sums
    }
}
