//! Sums of panels for many tokens: a block of weights is decoded into the first-level cache, and multiplied by all tokens from
//! there, by products of integers where those are exact.

use std::ops::Range;

use crate::blocks::{self, Place};
use crate::exact;
use crate::kernel_table::Fma;
use crate::matrix::{GroupScales, Matrix};
use crate::prepare::View;
use crate::tiling::{BLOCK, PANEL};

/// Adds the sums of `panels` over all groups to `acc` `[panel][token][16]`, for the tokens of `x`.
///
/// # Safety
/// The instruction set of the kernels is available; `panels` exist; `x` is divided into blocks as the matrix is.
pub(crate) unsafe fn accumulate(
    kernels: &Fma,
    matrix: &Matrix,
    panels: Range<usize>,
    x: View<'_>,
    acc: &mut [f32],
) {
    let groups = matrix.groups;
    let mut floats = blocks::Weights::ZERO;
    let mut integers = exact::Weights::ZERO;
    let scales = match &matrix.scales {
        GroupScales::Floats(scales) => Some(scales),
        GroupScales::One | GroupScales::Ladder(..) => None,
    };
    let of_panel = x.tokens * PANEL;
    let mut of_group = vec![0.0; if scales.is_some() { panels.len() * of_panel } else { 0 }];
    for group in 0..groups.count {
        for before in 0..groups.len(group).div_ceil(BLOCK) {
            let features = (groups.len(group) - before * BLOCK).min(BLOCK);
            let block = group * groups.blocks_each + before;
            let runs = runs(kernels, x, block);
            let sums = if scales.is_some() { &mut of_group[..] } else { &mut *acc };
            // The block of the tokens is read for all panels, while it is in the first-level cache.
            for (panel, sums) in panels.clone().zip(sums.chunks_exact_mut(of_panel)) {
                let place = Place { panel, group, before };
                let (mut of_integers, mut of_floats) = (None, false);
                for &(exact, ref tokens) in &runs {
                    let tokens = tokens.clone();
                    // SAFETY: the caller's condition; tokens are filled up to whole blocks.
                    unsafe {
                        if let Some(kernels) = kernels.exact.as_ref().filter(|_| exact)
                            && *of_integers
                                .get_or_insert_with(|| (kernels.decode)(matrix, place, &mut integers))
                        {
                            (kernels.add)(&integers, features, x, tokens, block, sums);
                            continue;
                        }
                        if !of_floats {
                            (kernels.decode)(matrix, place, &mut floats);
                            of_floats = true;
                        }
                        (kernels.add)(&floats, features, x, tokens, block, sums);
                    }
                }
            }
        }
        let Some(scales) = scales else { continue };
        let sums = of_group.chunks_exact(of_panel).zip(acc.chunks_exact_mut(of_panel));
        for (panel, (sums, acc)) in panels.clone().zip(sums) {
            // SAFETY: the caller's condition.
            unsafe { (kernels.scale)(sums, &scales[panel * groups.count + group], acc) };
        }
        of_group.fill(0.0);
    }
}

/// Tokens one after the other whose sums of a block are all exact, or not known to be; four at once at least, as they are added.
fn runs(kernels: &Fma, x: View<'_>, block: usize) -> Vec<(bool, Range<usize>)> {
    const AT_ONCE: usize = 4;
    let mut runs: Vec<(bool, Range<usize>)> = Vec::new();
    for first in (0..x.tokens).step_by(AT_ONCE) {
        let tokens = first..x.tokens.min(first + AT_ONCE);
        let exact = kernels.exact.is_some() && tokens.clone().all(|token| x.unit(token, block) != 0.0);
        match runs.last_mut().filter(|(last, _)| *last == exact) {
            Some((_, run)) => run.end = tokens.end,
            None => runs.push((exact, tokens)),
        }
    }
    runs
}
