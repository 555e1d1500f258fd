//! Sums of panels by AMX: tiles of 16 tokens by the 16 output features of a panel.
//!
//! `tdpbf16ps` adds one block to a tile of sums, in the crate's order. Where groups have scales, a group's sums leave the tile
//! registers when it ends, to be multiplied by those; else they stay until the row ends. Blocks of weights are decoded a few at a
//! time, so that they and the sums stay in the first-level cache, for all tokens; and one after the other between the products of
//! those before, which keep other units of the processor busy.

mod tile;

use std::arch::x86_64::{__m512i, _mm512_setzero_si512};
use std::ops::Range;

use tile::{ROW, Tiles, add_products, load, store, zero};

use crate::kinds::by_kind;
use crate::lanes::Lanes;
use crate::lanes::avx512::Zmm;
use crate::lanes::pairs::{Ladders, PairGrouping, Pairs};
use crate::matrix::{Groups, LINE, Matrix, PANEL};
use crate::prepare::View;
use crate::reference::BLOCK;
use crate::walk::{Walk, add_tile};

/// Panels at once, as many as tiles of tokens: each tile register that is loaded serves two products.
const PANELS: usize = 2;
/// The last, where their number is odd.
const ONE: usize = 1;
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

/// Adds the sums of `panels` over all groups to `acc` `[panel][token][16]`, for the tokens of `x`.
///
/// # Safety
/// AMX is available; `panels` exist; `x` is divided into blocks as the matrix is.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(crate) unsafe fn accumulate(matrix: &Matrix, panels: Range<usize>, x: View<'_>, acc: &mut [f32]) {
    // SAFETY: the caller's condition.
    unsafe {
        let _tiles = Tiles::configure(x.arrangement.tile);
        let mut chunks = [Chunk::EMPTY; 2];
        let mut panel = panels.start;
        while panel < panels.end {
            let acc = &mut acc[(panel - panels.start) * x.tokens * PANEL..];
            if panel + PANELS <= panels.end {
                by_kind!(matrix, Zmm, some [] [PANELS] (matrix, panel, x, &mut chunks, acc));
                panel += PANELS;
            } else {
                by_kind!(matrix, Zmm, some [] [ONE] (matrix, panel, x, &mut chunks, acc));
                panel += 1;
            }
        }
    }
}

/// A block of a panel: its group, and where it is in that.
#[derive(Clone, Copy, Default)]
struct Place {
    group: usize,
    /// Blocks of the group before it.
    before: usize,
    /// Whether it is the first that a sum has.
    first: bool,
    /// Whether it is the last that a sum has.
    last: bool,
}

/// Some blocks of some panels, decoded.
struct Chunk {
    weights: [[Operand; BLOCKS]; PANELS],
    places: [Place; BLOCKS],
    /// Blocks before it.
    first: usize,
    len: usize,
}

impl Chunk {
    const EMPTY: Self = Self {
        weights: [[Operand([0; PANEL * BLOCK]); BLOCKS]; PANELS],
        places: [Place { group: 0, before: 0, first: false, last: false }; BLOCKS],
        first: 0,
        len: 0,
    };

    /// Makes it the `len` blocks from `first`, of which `place` is the group of the first and where it is in that, and then of the
    /// next. `through` says that a sum goes through all groups.
    fn set(&mut self, first: usize, len: usize, place: &mut (usize, usize), groups: Groups, through: bool) {
        (self.first, self.len) = (first, len);
        for to in &mut self.places[..len] {
            let (group, before) = *place;
            let ends = before + 1 == groups.len(group).div_ceil(BLOCK);
            *to = Place {
                group,
                before,
                first: before == 0 && (group == 0 || !through),
                last: ends && (group + 1 == groups.count || !through),
            };
            *place = if ends { (group + 1, 0) } else { (group, before + 1) };
        }
    }
}

/// What stays the same over all blocks of `P` panels.
struct Panels<'a, D, const P: usize> {
    walks: [Walk<'a, Zmm, D>; P],
    ladders: Ladders,
    x: View<'a>,
}

/// # Safety
/// As of [`accumulate`], for `P` panels from `panel`; tiles are configured.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn some<D: Pairs, G: PairGrouping, const P: usize>(
    matrix: &Matrix,
    panel: usize,
    x: View<'_>,
    chunks: &mut [Chunk; 2],
    acc: &mut [f32],
) {
    // SAFETY: the caller's condition.
    unsafe {
        let panels: Panels<'_, D, P> = Panels {
            walks: std::array::from_fn(|p| Walk::new(matrix, panel + p)),
            ladders: Ladders::new(matrix),
            x,
        };
        let groups = matrix.groups;
        let tiles = x.tokens.div_ceil(x.arrangement.tile);
        let each = if G::THROUGH { groups.blocks } else { groups.blocks_each };
        // Few sums stay in the registers, else memory holds those that do not end where the blocks do that are decoded at once.
        let few = tiles <= 2;
        let at_once = if each > BLOCKS { BLOCKS } else { BLOCKS / each * each };
        let mut kept = vec![[Sums::ZERO; P]; if each > BLOCKS && !few { tiles } else { 0 }];
        let mut passing = [[Sums::ZERO; P]; 2];
        let mut place = (0, 0);
        let [mut current, mut next] = chunks.each_mut();
        current.set(0, at_once.min(groups.blocks), &mut place, groups, G::THROUGH);
        for block in 0..current.len {
            panels.decode::<G>(current, block);
        }
        while current.len > 0 {
            let first = current.first + current.len;
            next.set(first, at_once.min(groups.blocks - first), &mut place, groups, G::THROUGH);
            for tile in (0..tiles).step_by(2) {
                let sums = if kept.is_empty() { &mut passing[..] } else { &mut kept[tile..] };
                let next = (tile == 0).then_some(&mut *next);
                if tile + 1 < tiles {
                    panels.products::<G, 2>(current, next, few, tile, sums, acc);
                } else {
                    panels.products::<G, 1>(current, next, few, tile, sums, acc);
                }
            }
            std::mem::swap(&mut current, &mut next);
        }
    }
}

impl<D: Pairs, const P: usize> Panels<'_, D, P> {
    /// Decodes a block of a chunk.
    ///
    /// # Safety
    /// As of [`some`]; the block exists.
    #[inline(always)]
    unsafe fn decode<G: PairGrouping>(&self, chunk: &mut Chunk, block: usize) {
        let place = chunk.places[block];
        let whole = BLOCK / D::COLUMNS;
        // SAFETY: the caller's condition; a block has at most `whole` lines, and 16 pairs.
        unsafe {
            for (walk, weights) in self.walks.iter().zip(&mut chunk.weights) {
                let features = (walk.groups().len(place.group) - place.before * BLOCK).min(BLOCK);
                let lines = features.div_ceil(D::COLUMNS);
                let operand = G::of_pairs(walk, self.ladders, place.group);
                let line = walk.lines(place.group).add(place.before * whole * LINE);
                let to: *mut __m512i = (&raw mut weights[block].0).cast();
                for l in 0..lines {
                    let line = line.add(l * LINE);
                    Zmm::prefetch(line.wrapping_add(AHEAD));
                    for pair in 0..D::COLUMNS / 2 {
                        to.add(l * D::COLUMNS / 2 + pair).write(G::pairs(walk.decode, line, pair, operand));
                    }
                }
                for pair in lines * D::COLUMNS / 2..BLOCK / 2 {
                    to.add(pair).write(_mm512_setzero_si512());
                }
            }
        }
    }

    /// Adds the products of a chunk for `T` tiles of tokens, and the sums of the groups that end there. Decodes another one
    /// meanwhile. Sums that do not end there go to `sums`, or `stay` in the registers.
    ///
    /// # Safety
    /// As of [`some`]; the tiles exist.
    #[inline(always)]
    unsafe fn products<G: PairGrouping, const T: usize>(
        &self,
        chunk: &Chunk,
        mut next: Option<&mut Chunk>,
        stay: bool,
        tile: usize,
        sums: &mut [[Sums; P]],
        acc: &mut [f32],
    ) {
        let x = self.x;
        let block_bytes = x.arrangement.tile * ROW;
        // Registers 0 to 3 hold sums, `2 t + p`; 4 and 5 tokens; 6 and 7 weights.
        let mut block = 0;
        // SAFETY: the caller's condition.
        unsafe {
            let tokens: [*const u8; T] = std::array::from_fn(|t| {
                x.tile(tile + t).as_ptr().cast::<u8>().add(chunk.first * block_bytes)
            });
            while block < chunk.len {
                let mut place = chunk.places[block];
                let at = |t: usize, p: usize| (&raw const sums[t][p].0).cast::<u8>();
                if place.first {
                    zero::<0>();
                    zero::<1>();
                    zero::<2>();
                    zero::<3>();
                } else if !stay {
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
                    load::<6>((&raw const chunk.weights[0][block]).cast());
                    load::<4>(tokens[0].add(block * block_bytes));
                    add_products::<0, 4, 6>();
                    if P > 1 {
                        load::<7>((&raw const chunk.weights[1][block]).cast());
                        add_products::<1, 4, 7>();
                    }
                    if T > 1 {
                        load::<5>(tokens[1].add(block * block_bytes));
                        add_products::<2, 5, 6>();
                    }
                    if T > 1 && P > 1 {
                        add_products::<3, 5, 7>();
                    }
                    if let Some(next) = next.as_deref_mut().filter(|next| block < next.len) {
                        self.decode::<G>(next, block);
                    }
                    block += 1;
                    if place.last || block == chunk.len {
                        break;
                    }
                    place = chunk.places[block];
                }
                if stay && !place.last {
                    continue;
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
                    for (p, walk) in self.walks.iter().enumerate() {
                        let scale = walk.scale(place.group, 0);
                        for (t, sums) in sums[..T].iter().enumerate() {
                            let first = (tile + t) * x.arrangement.tile;
                            let rows = x.arrangement.tile.min(x.tokens - first);
                            let acc = &mut acc[(p * x.tokens + first) * PANEL..][..rows * PANEL];
                            add_tile(&sums[p].0, scale, acc);
                        }
                    }
                }
            }
        }
    }
}
