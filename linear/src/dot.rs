//! Sums of panels by `vdpbf16ps`, which adds two products at once in an order of its own: for the groups of a token whose sums are
//! exact in any order. Fused multiply-add takes the others.

use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::few::add_group;
use crate::lanes::Lanes;
use crate::lanes::avx512::Zmm;
use crate::lanes::pairs::{Ladders, PairGrouping, Pairs};
use crate::matrix::{Coding, GroupScales, LINE, Matrix, PANEL};
use crate::prepare::View;
use crate::reference::BLOCK;
use crate::walk::{Centred, Scaled, Through, Walk, by_kind};

/// Adds the sums of `panels` over all groups to `acc` `[panel][token][16]`, for the tokens of `x`.
///
/// # Safety
/// AVX-512 with BF16 is available; `panels` exist; `x` is divided into blocks as the matrix is.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(crate) unsafe fn accumulate(matrix: &Matrix, panels: Range<usize>, x: View<'_>, acc: &mut [f32]) {
    // SAFETY: the caller's condition.
    unsafe { by_kind!(matrix, Zmm, by_tokens [] [] (matrix, panels, x, acc)) }
}

/// # Safety
/// As of [`accumulate`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn by_tokens<D: Pairs, G: PairGrouping>(
    matrix: &Matrix,
    panels: Range<usize>,
    x: View<'_>,
    acc: &mut [f32],
) {
    for (panel, acc) in panels.zip(acc.chunks_exact_mut(PANEL * x.tokens)) {
        let mut first = 0;
        while first < x.tokens {
            let acc = &mut acc[first * PANEL..];
            // SAFETY: the caller's condition.
            first += unsafe {
                match x.tokens - first {
                    8.. => some::<D, G, 8>(matrix, panel, x, first, acc),
                    4.. => some::<D, G, 4>(matrix, panel, x, first, acc),
                    2.. => some::<D, G, 2>(matrix, panel, x, first, acc),
                    _ => some::<D, G, 1>(matrix, panel, x, first, acc),
                }
            };
        }
    }
}

/// The sums of `T` tokens; yields `T`.
///
/// # Safety
/// As of [`accumulate`]; there are `T` tokens from `first`, and `acc` holds `[T][16]`.
#[inline(always)]
unsafe fn some<D: Pairs, G: PairGrouping, const T: usize>(
    matrix: &Matrix,
    panel: usize,
    x: View<'_>,
    first: usize,
    acc: &mut [f32],
) -> usize {
    let rows: [*const f32; T] = std::array::from_fn(|t| x.row(first + t).as_ptr());
    let halves: [*const u16; T] = std::array::from_fn(|t| x.half_row(first + t).as_ptr());
    // SAFETY: the caller's condition; rows and lines have the lengths that `Groups` says.
    unsafe {
        let walk = [Walk::<'_, Zmm, D>::new(matrix, panel)];
        let ladders = Ladders::new(matrix);
        let mut sums = [[Zmm::splat(0.0); T]];
        for g in 0..matrix.groups.count {
            if x.are_exact::<T>(first, g) {
                add_exact_group::<D, G, T>(&walk[0], ladders, g, &halves, &mut sums[0]);
            } else {
                add_group::<Zmm, D, G, T, 1>(&walk, g, 0, &rows, &mut sums);
            }
            if !G::THROUGH {
                walk[0].add_group(g, 0, sums[0], acc);
                sums = [[Zmm::splat(0.0); T]];
            }
        }
        if G::THROUGH {
            for (sum, acc) in sums[0].into_iter().zip(acc.chunks_exact_mut(PANEL)) {
                sum.store(acc.as_mut_ptr());
            }
        }
    }
    T
}

/// Adds the products of a group for `T` tokens to `sums`, a block at a time.
///
/// # Safety
/// As of [`Walk::new`]; `rows` point to tokens with as many input features as blocks have.
#[inline(always)]
unsafe fn add_exact_group<D: Pairs, G: PairGrouping, const T: usize>(
    walk: &Walk<'_, Zmm, D>,
    ladders: Ladders,
    g: usize,
    rows: &[*const u16; T],
    sums: &mut [Zmm; T],
) {
    // SAFETY: the caller's condition; the vectors of bfloat16 and of integers have one size.
    unsafe {
        let groups = walk.groups();
        let operand = G::of_pairs(walk, ladders, g);
        let (mut line, mut at) = (walk.lines(g), g * groups.blocks_each * BLOCK);
        let mut left = groups.len(g);
        while left > 0 {
            let lines = left.min(BLOCK).div_ceil(D::COLUMNS);
            let mut chains = [[_mm512_setzero_ps(); T]; 2];
            for l in 0..lines {
                for pair in 0..D::COLUMNS / 2 {
                    let weights = G::pairs(walk.decode, line.add(l * LINE), pair, operand);
                    for t in 0..T {
                        let x = rows[t].add(at + l * D::COLUMNS + 2 * pair).cast::<i32>().read_unaligned();
                        let x: __m512bh = transmute(_mm512_set1_epi32(x));
                        chains[pair % 2][t] =
                            _mm512_dpbf16_ps(chains[pair % 2][t], transmute::<__m512i, __m512bh>(weights), x);
                    }
                }
            }
            for t in 0..T {
                sums[t] = sums[t].add(Zmm(chains[0][t]).add(Zmm(chains[1][t])));
            }
            line = line.add(lines * LINE);
            at += BLOCK;
            left = left.saturating_sub(BLOCK);
        }
    }
}

/// Whether `vdpbf16ps` adds more products in a time than fused multiply-add: on AMD twice as many, on Intel half as many.
/// Takes some microseconds.
///
/// # Safety
/// AVX-512 with BF16 is available.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn is_fast() -> bool {
    const CHAINS: usize = 12;
    const TURNS: usize = 200;
    let mut sums = [_mm512_setzero_ps(); CHAINS];
    let (ones, factor) = (_mm512_set1_ps(1.0), _mm512_set1_epi32(0));
    // SAFETY: the two vectors have one size.
    let factor: __m512bh = unsafe { transmute(std::hint::black_box(factor)) };
    let ones = std::hint::black_box(ones);
    let (mut of_dots, mut of_fma) = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, factor, factor);
            }
        }
        of_dots = of_dots.min(start.elapsed());
        std::hint::black_box(&sums);
        let start = Instant::now();
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, ones, ones);
            }
        }
        of_fma = of_fma.min(start.elapsed());
        std::hint::black_box(&sums);
    }
    // An instruction of the one adds twice the products of the other.
    of_dots < 2 * of_fma
}
