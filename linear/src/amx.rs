//! Sums of panels by AMX: tiles of 16 tokens by the 16 output features of a panel.
//!
//! `tdpbf16ps` adds one block to a tile of sums, in the crate's order. A group's sums leave the tile registers when the group ends,
//! to be multiplied by its steps. Blocks of weights are decoded a few at a time, so that they and the sums stay in the
//! first-level cache, for all tokens.

mod tile;

use std::arch::x86_64::*;
use std::ops::Range;

use tile::{ROW, Tiles, add_products, load, store, zero};

use crate::lanes::Lanes;
use crate::lanes::avx512::{Pairs, Zmm, side_by_side};
use crate::matrix::{Coding, Groups, LINE, Matrix, PANEL};
use crate::prepare::View;
use crate::reference::BLOCK;
use crate::walk::{Walk, add_tile};

/// Panels at once, as many as tiles of tokens: each tile register that is loaded serves two products.
const PANELS: usize = 2;
/// Blocks that are decoded at once, at most.
const BLOCKS: usize = 8;
/// Bytes that codes are fetched ahead.
const AHEAD: usize = 2048;

/// A block of weights in bfloat16: pairs of input features by output features.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Operand([u16; PANEL * BLOCK]);

/// A tile of sums, tokens by output features.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Sums([f32; 16 * PANEL]);

impl Sums {
    const ZERO: Self = Self([0.0; 16 * PANEL]);
}

/// Writes the sums of `panels` over all groups, `acc` `[panel][token][16]`, for the tokens of `x`.
///
/// # Safety
/// AMX is available; `panels` exist; `x` is divided into blocks as the matrix is.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(crate) unsafe fn accumulate(matrix: &Matrix, panels: Range<usize>, x: View<'_>, acc: &mut [f32]) {
    acc[..panels.len() * x.tokens * PANEL].fill(0.0);
    // SAFETY: the caller's condition.
    unsafe {
        let _tiles = Tiles::configure(x.arrangement.tile);
        let mut panel = panels.start;
        while panel < panels.end {
            let acc = &mut acc[(panel - panels.start) * x.tokens * PANEL..];
            if panel + PANELS <= panels.end {
                by_coding::<PANELS>(matrix, panel, x, acc);
                panel += PANELS;
            } else {
                by_coding::<1>(matrix, panel, x, acc);
                panel += 1;
            }
        }
    }
}

/// # Safety
/// As of [`accumulate`], for `P` panels from `panel`; tiles are configured.
#[inline(always)]
unsafe fn by_coding<const P: usize>(matrix: &Matrix, panel: usize, x: View<'_>, acc: &mut [f32]) {
    // SAFETY: the caller's condition.
    unsafe {
        match (&matrix.coding, matrix.zero_points.is_empty()) {
            (Coding::Nibbles(_), true) => some::<<Zmm as Lanes>::Nibbles, P, false>(matrix, panel, x, acc),
            (Coding::Nibbles(_), false) => some::<<Zmm as Lanes>::Nibbles, P, true>(matrix, panel, x, acc),
            (Coding::Int8, true) => some::<<Zmm as Lanes>::Int8, P, false>(matrix, panel, x, acc),
            (Coding::Int8, false) => some::<<Zmm as Lanes>::Int8, P, true>(matrix, panel, x, acc),
            (Coding::E4M3, _) => some::<<Zmm as Lanes>::E4M3, P, false>(matrix, panel, x, acc),
            (Coding::E5M2, _) => some::<<Zmm as Lanes>::E5M2, P, false>(matrix, panel, x, acc),
            (Coding::Bf16, _) => some::<<Zmm as Lanes>::Bf16, P, false>(matrix, panel, x, acc),
        }
    }
}

/// A block of a panel: its group, and where it is in that.
#[derive(Clone, Copy, Default)]
struct Place {
    group: usize,
    /// Blocks of the group before it.
    before: usize,
    /// Whether it is the last of the group.
    last: bool,
}

impl Place {
    /// The places of some blocks from `place`, and the place after them.
    fn list(groups: Groups, mut place: Self, to: &mut [Self]) -> Self {
        for to in to {
            place.last = place.before + 1 == groups.len(place.group).div_ceil(BLOCK);
            *to = place;
            (place.group, place.before) =
                if place.last { (place.group + 1, 0) } else { (place.group, place.before + 1) };
        }
        place
    }
}

/// # Safety
/// As of [`by_coding`].
#[inline(always)]
unsafe fn some<D: Pairs, const P: usize, const ZERO_POINTS: bool>(
    matrix: &Matrix,
    panel: usize,
    x: View<'_>,
    acc: &mut [f32],
) {
    // SAFETY: the caller's condition.
    unsafe {
        let walks: [Walk<'_, Zmm, D>; P] = std::array::from_fn(|p| Walk::new(matrix, panel + p));
        let tiles = x.tokens.div_ceil(x.arrangement.tile);
        let each = matrix.groups.blocks_each;
        // Few tokens: what is decoded is used a turn later, when it has left the store buffer, which tiles cannot be loaded from.
        // Many: as many blocks as the first-level cache holds, so that sums are seldom fetched.
        let (lag, at_once) = match (tiles, each) {
            (0..=2, 0..=BLOCKS) => (1, each),
            (0..=2, _) => (1, BLOCKS),
            (_, 0..=BLOCKS) => (0, BLOCKS / each * each),
            _ => (0, BLOCKS),
        };
        // The sums of groups that do not end where the blocks do that are decoded at once.
        let mut kept = vec![[Sums::ZERO; P]; if each > BLOCKS { tiles } else { 0 }];
        let mut passing = [[Sums::ZERO; P]; 2];
        let mut decoded = [[[Operand([0; PANEL * BLOCK]); BLOCKS]; P]; 2];
        let mut places = [[Place::default(); BLOCKS]; 2];
        let mut next = Place::default();
        let chunks = matrix.groups.blocks.div_ceil(at_once);
        let blocks_of = |chunk: usize| at_once.min(matrix.groups.blocks - chunk * at_once);
        for turn in 0..chunks + lag {
            if turn < chunks {
                let places = &mut places[turn * lag % 2][..blocks_of(turn)];
                next = Place::list(matrix.groups, next, places);
                for (walk, weights) in walks.iter().zip(&mut decoded[turn * lag % 2]) {
                    for (place, to) in places.iter().zip(weights) {
                        decode::<D, ZERO_POINTS>(walk, *place, to);
                    }
                }
            }
            let Some(chunk) = turn.checked_sub(lag) else { continue };
            let (weights, places) = (&decoded[chunk * lag % 2], &places[chunk * lag % 2][..blocks_of(chunk)]);
            let first = chunk * at_once;
            for tile in (0..tiles).step_by(2) {
                let sums = if each > BLOCKS { &mut kept[tile..] } else { &mut passing[..] };
                if tile + 1 < tiles {
                    products::<D, P, 2>(&walks, weights, first, places, x, tile, sums, acc);
                } else {
                    products::<D, P, 1>(&walks, weights, first, places, x, tile, sums, acc);
                }
            }
        }
    }
}

/// Decodes a block of weights.
///
/// # Safety
/// As of [`by_coding`].
#[inline(always)]
unsafe fn decode<D: Pairs, const ZERO_POINTS: bool>(walk: &Walk<'_, Zmm, D>, place: Place, to: &mut Operand) {
    let whole = BLOCK / D::COLUMNS;
    let lines = (walk.groups().len(place.group) - place.before * BLOCK).min(BLOCK).div_ceil(D::COLUMNS);
    // SAFETY: the caller's condition; a block has at most `whole` lines, and 16 pairs.
    unsafe {
        let zero_point = walk.zero_point::<ZERO_POINTS>(place.group, 0);
        let line = walk.lines(place.group).add(place.before * whole * LINE);
        let to: *mut __m512i = (&raw mut to.0).cast();
        for l in 0..lines {
            for pair in 0..D::COLUMNS / 2 {
                let line = line.add(l * LINE);
                if pair == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD).cast());
                }
                let pairs = if ZERO_POINTS {
                    let (even, odd) = walk.decode.pair(line, 0, pair);
                    side_by_side(even.sub(zero_point), odd.sub(zero_point))
                } else {
                    walk.decode.pairs(line, pair)
                };
                to.add(l * D::COLUMNS / 2 + pair).write(pairs);
            }
        }
        for pair in lines * D::COLUMNS / 2..BLOCK / 2 {
            to.add(pair).write(_mm512_setzero_si512());
        }
    }
}

/// Adds the products of some blocks for `T` tiles of tokens, and the sums of the groups that end there.
///
/// # Safety
/// As of [`by_coding`]; the tiles exist.
#[allow(clippy::too_many_arguments, reason = "the state of one loop nest")]
#[inline(always)]
unsafe fn products<D: Pairs, const P: usize, const T: usize>(
    walks: &[Walk<'_, Zmm, D>; P],
    weights: &[[Operand; BLOCKS]; P],
    first: usize,
    places: &[Place],
    x: View<'_>,
    tile: usize,
    sums: &mut [[Sums; P]],
    acc: &mut [f32],
) {
    let block_bytes = x.arrangement.tile * ROW;
    // Registers 0 to 3 hold sums, `2 t + p`; 4 and 5 tokens; 6 and 7 weights.
    let mut block = 0;
    // SAFETY: the caller's condition.
    unsafe {
        let tokens: [*const u8; T] =
            std::array::from_fn(|t| x.tile(tile + t).as_ptr().cast::<u8>().add(first * block_bytes));
        while block < places.len() {
            let mut place = places[block];
            let at = |t: usize, p: usize| (&raw const sums[t][p].0).cast::<u8>();
            if place.before == 0 {
                zero::<0>();
                zero::<1>();
                zero::<2>();
                zero::<3>();
            } else {
                load::<0>(at(0, 0));
                if P > 1 {
                    load::<1>(at(0, 1));
                }
                if T > 1 {
                    load::<2>(at(1, 0));
                }
                if T > 1 && P > 1 {
                    load::<3>(at(1, 1));
                }
            }
            loop {
                load::<6>((&raw const weights[0][block]).cast());
                load::<4>(tokens[0].add(block * block_bytes));
                add_products::<0, 4, 6>();
                if P > 1 {
                    load::<7>((&raw const weights[1][block]).cast());
                    add_products::<1, 4, 7>();
                }
                if T > 1 {
                    load::<5>(tokens[1].add(block * block_bytes));
                    add_products::<2, 5, 6>();
                }
                if T > 1 && P > 1 {
                    add_products::<3, 5, 7>();
                }
                block += 1;
                if place.last || block == places.len() {
                    break;
                }
                place = places[block];
            }
            let mut to = |t: usize, p: usize| (&raw mut sums[t][p].0).cast::<f32>();
            store::<0>(to(0, 0));
            if P > 1 {
                store::<1>(to(0, 1));
            }
            if T > 1 {
                store::<2>(to(1, 0));
            }
            if T > 1 && P > 1 {
                store::<3>(to(1, 1));
            }
            if place.last {
                for (p, walk) in walks.iter().enumerate() {
                    let step = walk.step(place.group, 0);
                    for (t, sums) in sums[..T].iter().enumerate() {
                        let first = (tile + t) * x.arrangement.tile;
                        let rows = x.arrangement.tile.min(x.tokens - first);
                        let acc = &mut acc[(p * x.tokens + first) * PANEL..][..rows * PANEL];
                        add_tile(&sums[p].0, step, acc);
                    }
                }
            }
        }
    }
}
