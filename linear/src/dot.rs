//! Sums of panels by `vdpbf16ps`, which adds two products at once in an order of its own: for the groups of a token whose sums are
//! exact in any order. Fused multiply-add takes the others.

use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::lanes::Lanes;
use crate::lanes::avx512::{Pairs, Zmm, side_by_side};
use crate::matrix::{Coding, LINE, Matrix, PANEL};
use crate::panel::{self, group};
use crate::prepare::View;
use crate::reference::BLOCK;
use crate::walk::Walk;

/// Writes the sums of `panels` over all groups, `acc` `[panel][token][16]`, for the tokens of `x`.
///
/// # Safety
/// AVX-512 with BF16 is available; `panels` exist; `x` is divided into blocks as the matrix is.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(crate) unsafe fn accumulate(matrix: &Matrix, panels: Range<usize>, x: View<'_>, acc: &mut [f32]) {
    // SAFETY: the caller's condition.
    unsafe {
        match (&matrix.coding, matrix.zero_points.is_empty()) {
            (Coding::Nibbles(_), true) => by_tokens::<<Zmm as Lanes>::Nibbles, false>(matrix, panels, x, acc),
            (Coding::Nibbles(_), false) => by_tokens::<<Zmm as Lanes>::Nibbles, true>(matrix, panels, x, acc),
            (Coding::Int8, true) => by_tokens::<<Zmm as Lanes>::Int8, false>(matrix, panels, x, acc),
            (Coding::Int8, false) => by_tokens::<<Zmm as Lanes>::Int8, true>(matrix, panels, x, acc),
            // Sums of these are hardly ever exact.
            (Coding::E4M3 | Coding::E5M2 | Coding::Bf16, _) => {
                panel::accumulate::<Zmm>(matrix, panels, x, acc)
            }
        }
    }
}

/// # Safety
/// As of [`accumulate`].
#[inline(always)]
unsafe fn by_tokens<D: Pairs, const ZERO_POINTS: bool>(
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
                    8.. => some::<D, 8, ZERO_POINTS>(matrix, panel, x, first, acc),
                    4.. => some::<D, 4, ZERO_POINTS>(matrix, panel, x, first, acc),
                    2.. => some::<D, 2, ZERO_POINTS>(matrix, panel, x, first, acc),
                    _ => some::<D, 1, ZERO_POINTS>(matrix, panel, x, first, acc),
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
unsafe fn some<D: Pairs, const T: usize, const ZERO_POINTS: bool>(
    matrix: &Matrix,
    panel: usize,
    x: View<'_>,
    first: usize,
    acc: &mut [f32],
) -> usize {
    acc[..T * PANEL].fill(0.0);
    let rows: [*const f32; T] = std::array::from_fn(|t| x.row(first + t).as_ptr());
    let halves: [*const u16; T] = std::array::from_fn(|t| x.half_row(first + t).as_ptr());
    // SAFETY: the caller's condition; rows and lines have the lengths that `Groups` says.
    unsafe {
        let walk = [Walk::<'_, Zmm, D>::new(matrix, panel)];
        for g in 0..matrix.groups.count {
            let sums = if x.are_exact::<T>(first, g) {
                exact_group::<D, T, ZERO_POINTS>(&walk[0], g, &halves)
            } else {
                let [sums] = group::<Zmm, D, T, 1, ZERO_POINTS>(&walk, g, 0, &rows);
                sums
            };
            walk[0].finish(g, 0, sums, acc);
        }
    }
    T
}

/// The sums of a group for `T` tokens, two chains for each.
///
/// # Safety
/// As of [`Walk::new`]; `rows` point to tokens with as many input features as blocks have.
#[inline(always)]
unsafe fn exact_group<D: Pairs, const T: usize, const ZERO_POINTS: bool>(
    walk: &Walk<'_, Zmm, D>,
    g: usize,
    rows: &[*const u16; T],
) -> [Zmm; T] {
    // SAFETY: the caller's condition; the vectors of bfloat16 and of integers have one size.
    unsafe {
        let groups = walk.groups();
        let zero_point = walk.zero_point::<ZERO_POINTS>(g, 0);
        let (lines, at) = (walk.lines(g), g * groups.blocks_each * BLOCK);
        let mut sums = [[_mm512_setzero_ps(); T]; 2];
        for l in 0..groups.len(g).div_ceil(D::COLUMNS) {
            for pair in 0..D::COLUMNS / 2 {
                let line = lines.add(l * LINE);
                let weights = if ZERO_POINTS {
                    let (even, odd) = walk.decode.pair(line, 0, pair);
                    side_by_side(even.sub(zero_point), odd.sub(zero_point))
                } else {
                    walk.decode.pairs(line, pair)
                };
                for t in 0..T {
                    let x = rows[t].add(at + l * D::COLUMNS + 2 * pair).cast::<i32>().read_unaligned();
                    let x: __m512bh = transmute(_mm512_set1_epi32(x));
                    sums[pair % 2][t] =
                        _mm512_dpbf16_ps(sums[pair % 2][t], transmute::<__m512i, __m512bh>(weights), x);
                }
            }
        }
        std::array::from_fn(|t| Zmm(sums[0][t]).add(Zmm(sums[1][t])))
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
