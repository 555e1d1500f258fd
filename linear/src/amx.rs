//! Sums of panels by AMX: tiles of 16 tokens by the 16 output features of a panel.
//!
//! `tdpbf16ps` adds one block to a tile of sums, in the crate's order. Where groups have scales, a group's sums leave the tile
//! registers when it ends, to be multiplied by those; else they stay until the row ends. Blocks of weights are decoded a few at a
//! time, so that they and the sums stay in the first-level cache, for all tokens; and one after the other between the products of
//! those before, which keep other units of the processor busy.

mod tile;

use std::arch::x86_64::{__m512i, _mm512_setzero_si512};
use std::mem::MaybeUninit;
use std::ops::Range;

use tile::{ROW, Tiles, add_products, load, store, zero};

use crate::kinds::by_kind;
use crate::lanes::Lanes;
use crate::lanes::avx512::Zmm;
use crate::lanes::pairs::{Ladders, PairGrouping, Pairs};
use crate::matrix::{Groups, Matrix};
use crate::prepare::View;
use crate::tiling::{BLOCK, LINE, PANEL};
use crate::walk::{Walk, add_tile};

/// Panels at once where there is one tile of tokens: as many sums as hide the latency of a product.
const FOUR: usize = 4;
/// Panels at once where there are more tiles, which go in twos: each tile register that is loaded serves two products.
const TWO: usize = 2;
/// The last, where their number is odd.
const ONE: usize = 1;
/// Blocks that are decoded at once, of all panels: as many as leave room for tokens in the first-level cache.
const DECODED: usize = 16;
/// The same of a panel, at most.
const BLOCKS: usize = 8;
/// The same of each of four panels: fewer, as nothing but the next product waits for them.
const BLOCKS_OF_FOUR: usize = 2;
/// Bytes that codes are fetched ahead.
const AHEAD: usize = 2048;

/// A block of weights in bfloat16: pairs of input features by output features.
#[repr(C, align(64))]
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
        let one_tile = x.tokens <= x.arrangement.tile;
        let _tiles = Tiles::configure(x.arrangement.tile, one_tile);
        let mut chunks = [const { Chunk::EMPTY }; 2];
        let mut panel = panels.start;
        while panel < panels.end {
            let acc = &mut acc[(panel - panels.start) * x.tokens * PANEL..];
            let left = panels.end - panel;
            if left >= FOUR && one_tile {
                by_kind!(matrix, Zmm, some [] [FOUR] (matrix, panel, x, &mut chunks, acc));
                panel += FOUR;
            } else if left >= TWO {
                by_kind!(matrix, Zmm, some [] [TWO] (matrix, panel, x, &mut chunks, acc));
                panel += TWO;
            } else {
                by_kind!(matrix, Zmm, some [] [ONE] (matrix, panel, x, &mut chunks, acc));
                panel += ONE;
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
    /// Input features.
    features: usize,
    /// Whether it is the first that a sum has.
    first: bool,
    /// Whether it is the last that a sum has.
    last: bool,
}

/// Some blocks of some panels, decoded.
struct Chunk {
    /// `[block][panel]`.
    weights: [MaybeUninit<Operand>; DECODED],
    places: [Place; BLOCKS],
    /// Blocks before it.
    first: usize,
    len: usize,
}

impl Chunk {
    const EMPTY: Self = Self {
        weights: [const { MaybeUninit::uninit() }; DECODED],
        places: [Place { group: 0, before: 0, features: 0, first: false, last: false }; BLOCKS],
        first: 0,
        len: 0,
    };

    /// Makes it the `len` blocks from `first`, of which `place` is the group of the first and where it is in that, and then of the
    /// next. `through` says that a sum goes through all groups.
    fn set(&mut self, first: usize, len: usize, place: &mut (usize, usize), groups: Groups, through: bool) {
        (self.first, self.len) = (first, len);
        for to in &mut self.places[..len] {
            let (group, before) = *place;
            let left = groups.len(group) - before * BLOCK;
            let ends = left <= BLOCK;
            *to = Place {
                group,
                before,
                features: left.min(BLOCK),
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
        let most = if P == FOUR { BLOCKS_OF_FOUR } else { BLOCKS };
        let at_once = if each > most { most } else { most / each * each };
        let mut kept = vec![[Sums::ZERO; P]; if each > most && !few { tiles } else { 0 }];
        let mut passing = [[Sums::ZERO; P]; 2];
        let mut place = (0, 0);
        let [mut current, mut next] = chunks.each_mut();
        current.set(0, at_once.min(groups.blocks), &mut place, groups, G::THROUGH);
        for at in 0..current.len * P {
            panels.decode::<G>(current, at);
        }
        while current.len > 0 {
            let first = current.first + current.len;
            next.set(first, at_once.min(groups.blocks - first), &mut place, groups, G::THROUGH);
            let mut decoding = Decoding::new(next, next.len * P, tiles.div_ceil(2) * current.len * P);
            for tile in (0..tiles).step_by(2) {
                let sums = if kept.is_empty() { &mut passing[..] } else { &mut kept[tile..] };
                if tile + 1 < tiles {
                    panels.products::<G, 2>(current, &mut decoding, few, tile, sums, acc);
                } else {
                    panels.products::<G, 1>(current, &mut decoding, few, tile, sums, acc);
                }
            }
            std::mem::swap(&mut current, &mut next);
        }
    }
}

/// A chunk that is decoded step by step, about as much in each.
struct Decoding<'a> {
    chunk: &'a mut Chunk,
    /// Blocks of panels.
    count: usize,
    /// Those that are decoded.
    done: usize,
    /// Steps in all.
    steps: usize,
    /// What is left over by the steps so far, in shares of a block.
    left: usize,
}

impl<'a> Decoding<'a> {
    fn new(chunk: &'a mut Chunk, count: usize, steps: usize) -> Self {
        Self { chunk, count, done: 0, steps, left: 0 }
    }
}

impl<D: Pairs, const P: usize> Panels<'_, D, P> {
    /// Decodes what a step is to decode.
    ///
    /// # Safety
    /// As of [`some`].
    #[inline(always)]
    unsafe fn decode_some<G: PairGrouping>(&self, decoding: &mut Decoding<'_>) {
        decoding.left += decoding.count;
        while decoding.left >= decoding.steps {
            decoding.left -= decoding.steps;
            // SAFETY: the caller's condition; over all steps it is `count` blocks.
            unsafe { self.decode::<G>(decoding.chunk, decoding.done) };
            decoding.done += 1;
        }
    }

    /// Decodes a block of a panel, the one at `at` in the chunk. Not inlined, as its code would stand after every product.
    ///
    /// # Safety
    /// As of [`some`]; the block exists.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    #[inline(never)]
    unsafe fn decode<G: PairGrouping>(&self, chunk: &mut Chunk, at: usize) {
        let place = chunk.places[at / P];
        let walk = &self.walks[at % P];
        let to: *mut __m512i = chunk.weights[at].as_mut_ptr().cast();
        let whole = BLOCK / D::COLUMNS;
        // SAFETY: the caller's condition; a block has at most `whole` lines, and 16 pairs.
        unsafe {
            let operand = G::of_pairs(walk, self.ladders, place.group);
            let line = walk.lines(place.group).add(place.before * whole * LINE);
            let decode_line = |l: usize| {
                let line = line.add(l * LINE);
                Zmm::prefetch(line.wrapping_add(AHEAD));
                for pair in 0..D::COLUMNS / 2 {
                    to.add(l * D::COLUMNS / 2 + pair).write(G::pairs(walk.decode, line, pair, operand));
                }
            };
            if place.features > BLOCK - D::COLUMNS {
                // Their number is known to the compiler.
                (0..whole).for_each(decode_line);
            } else {
                let lines = place.features.div_ceil(D::COLUMNS);
                (0..lines).for_each(decode_line);
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
        decoding: &mut Decoding<'_>,
        stay: bool,
        tile: usize,
        sums: &mut [[Sums; P]],
        acc: &mut [f32],
    ) {
        let x = self.x;
        let block_bytes = x.arrangement.tile * ROW;
        // Registers 0 to 3 hold sums, `2 t + p`; 4 tokens, and 5 those of another tile; 6 and 7 weights, and 5 too of one tile.
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
                    if P > 2 {
                        load::<2>(at(0, 2));
                        load::<3>(at(0, 3));
                    }
                    if T > 1 {
                        load::<2>(at(1, 0));
                    }
                    if T > 1 && P > 1 {
                        load::<3>(at(1, 1));
                    }
                }
                loop {
                    let weights = |p: usize| chunk.weights[block * P + p].as_ptr().cast::<u8>();
                    load::<4>(tokens[0].add(block * block_bytes));
                    load::<6>(weights(0));
                    add_products::<0, 4, 6>();
                    if T > 1 {
                        load::<5>(tokens[1].add(block * block_bytes));
                        add_products::<2, 5, 6>();
                    }
                    self.decode_some::<G>(decoding);
                    if P > 1 {
                        load::<7>(weights(1));
                        add_products::<1, 4, 7>();
                        if T > 1 {
                            add_products::<3, 5, 7>();
                        }
                        self.decode_some::<G>(decoding);
                    }
                    if P > 2 {
                        load::<5>(weights(2));
                        add_products::<2, 4, 5>();
                        self.decode_some::<G>(decoding);
                        load::<6>(weights(3));
                        add_products::<3, 4, 6>();
                        self.decode_some::<G>(decoding);
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
                if P > 2 {
                    store::<2>(to(0, 2));
                    store::<3>(to(0, 3));
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
