//! Sums of panels by fused multiply-add for few tokens, which are multiplied by what is decoded while it is in registers.

use std::ops::Range;

use crate::kinds::by_kind;
use crate::lanes::{Decode, Lanes};
use crate::matrix::Matrix;
use crate::prepare::View;
use crate::tiling::{BLOCK, LINE, PANEL};
use crate::walk::{Grouping, Walk};

/// Bytes that codes are fetched ahead, as memory is the bound.
pub(crate) const AHEAD: usize = 1024;

/// Tokens that are few.
pub(crate) const TOKENS: usize = 4;

/// A block of some panels: its group, blocks of the group before it, and the part of the output features.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub group: usize,
    pub before: usize,
    pub part: usize,
}

/// How the products of a block are added.
pub(crate) trait Blocks<V: Lanes, D: Decode<V>, G: Grouping> {
    /// Adds those for `T` tokens and `P` panels to `sums`. `lines` are those of the group.
    ///
    /// # Safety
    /// As of [`Walk::new`]; the block exists, and `x` has `T` tokens.
    unsafe fn add<const T: usize, const P: usize>(
        walks: &[Walk<'_, V, D>; P],
        operands: &[V; P],
        lines: &[*const u8; P],
        place: Place,
        x: View<'_>,
        sums: &mut [[V; T]; P],
    );
}

/// Adds the sums of `panels` over all groups to `acc` `[panel][token][16]`, for one to four tokens.
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
    unsafe { by_kind!(matrix, V, by_tokens[V][Floats](matrix, panels, x, acc)) }
}

/// As many panels at once as have eight chains of sums, to hide the latency of an addition, or as the registers have room for.
///
/// # Safety
/// As of [`accumulate`].
#[inline(always)]
pub(crate) unsafe fn by_tokens<V: Lanes, D: Decode<V>, G: Grouping, B: Blocks<V, D, G>>(
    matrix: &Matrix,
    panels: Range<usize>,
    x: View<'_>,
    acc: &mut [f32],
) {
    // SAFETY: the caller's condition.
    unsafe {
        match x.tokens {
            1 if V::REGISTERS <= 16 => by_panels::<V, D, G, B, 1, 2>(matrix, panels, x, acc),
            1 => by_panels::<V, D, G, B, 1, 4>(matrix, panels, x, acc),
            2 if V::REGISTERS <= 16 => by_panels::<V, D, G, B, 2, 1>(matrix, panels, x, acc),
            2 => by_panels::<V, D, G, B, 2, 2>(matrix, panels, x, acc),
            3 => by_panels::<V, D, G, B, 3, 1>(matrix, panels, x, acc),
            4 => by_panels::<V, D, G, B, 4, 1>(matrix, panels, x, acc),
            tokens => unreachable!("{tokens} are not few"),
        }
    }
}

/// The sums of `T` tokens, `P` panels at once.
///
/// # Safety
/// As of [`accumulate`]; there are `T` tokens.
#[inline(always)]
unsafe fn by_panels<
    V: Lanes,
    D: Decode<V>,
    G: Grouping,
    B: Blocks<V, D, G>,
    const T: usize,
    const P: usize,
>(
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
                some::<V, D, G, B, T, P>(matrix, panel, x, acc);
                panel += P;
            } else {
                some::<V, D, G, B, T, 1>(matrix, panel, x, acc);
                panel += 1;
            }
        }
    }
}

/// # Safety
/// As of [`by_panels`]; there are `P` panels from `panel`, and `acc` begins with the first of them.
#[inline(always)]
unsafe fn some<V: Lanes, D: Decode<V>, G: Grouping, B: Blocks<V, D, G>, const T: usize, const P: usize>(
    matrix: &Matrix,
    panel: usize,
    x: View<'_>,
    acc: &mut [f32],
) {
    let groups = matrix.groups;
    // SAFETY: the caller's condition; rows and lines have the lengths that `Groups` says, and every pointer into `acc` is to a part
    // of a panel.
    unsafe {
        let walks: [Walk<'_, V, D>; P] = std::array::from_fn(|p| Walk::new(matrix, panel + p));
        for g in 0..groups.count {
            for part in 0..PANEL / V::COUNT {
                let at = |p: usize, t: usize| (p * T + t) * PANEL + part * V::COUNT;
                let mut sums = [[V::splat(0.0); T]; P];
                let mut operands = [V::splat(0.0); P];
                let mut lines = [std::ptr::null(); P];
                for p in 0..P {
                    operands[p] = G::operand(&walks[p], g, part);
                    lines[p] = walks[p].lines(g);
                    for t in 0..T {
                        if G::THROUGH {
                            sums[p][t] = V::load(acc[at(p, t)..].as_ptr());
                        }
                    }
                }
                for before in 0..groups.len(g).div_ceil(BLOCK) {
                    let place = Place { group: g, before, part };
                    B::add::<T, P>(&walks, &operands, &lines, place, x, &mut sums);
                }
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

/// By fused multiply-add.
pub(crate) struct Floats;

impl<V: Lanes, D: Decode<V>, G: Grouping> Blocks<V, D, G> for Floats {
    #[inline(always)]
    unsafe fn add<const T: usize, const P: usize>(
        walks: &[Walk<'_, V, D>; P],
        operands: &[V; P],
        lines: &[*const u8; P],
        place: Place,
        x: View<'_>,
        sums: &mut [[V; T]; P],
    ) {
        let groups = walks[0].groups();
        let features = (groups.len(place.group) - place.before * BLOCK).min(BLOCK);
        let first = place.before * BLOCK / D::COLUMNS * LINE;
        let at = (place.group * groups.blocks_each + place.before) * BLOCK;
        // SAFETY: the caller's condition.
        unsafe {
            let mut even = [[V::splat(0.0); T]; P];
            let mut odd = [[V::splat(0.0); T]; P];
            for l in 0..features.div_ceil(D::COLUMNS) {
                for p in 0..P {
                    let line = lines[p].add(first + l * LINE);
                    V::prefetch(line.wrapping_add(AHEAD));
                    for pair in 0..D::COLUMNS / 2 {
                        let (first, second) = walks[p].decode.pair(line, place.part, pair);
                        let first = G::weight(first, operands[p]);
                        let second = G::weight(second, operands[p]);
                        for t in 0..T {
                            let x = x.row(t).as_ptr().add(at + l * D::COLUMNS + 2 * pair);
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
            }
        }
    }
}
