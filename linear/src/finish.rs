//! What becomes of the sums of a panel: scales, low-rank branch and bias, and the cast to the type of the output.

use std::ops::Range;

use crate::lanes::{Decode, Lanes};
use crate::matrix::Matrix;
use crate::operands::Columns;
use crate::tiling::{Coding, LINE, PANEL};

/// What is done to the sums of all tokens.
pub(crate) struct Epilogue<'a> {
    /// Scales of the output features of all panels, or none.
    pub row_scales: &'a [[f32; PANEL]],
    /// Scales of tokens.
    pub token_scales: &'a [f32],
    /// `U`, if there is a low-rank branch.
    pub up: Option<&'a Matrix>,
    /// What `U` is multiplied by, `[token][stride]`.
    pub components: &'a [f32],
    /// Elements between tokens of `components`.
    pub stride: usize,
    /// Biases of the output features of all panels, or none.
    pub bias: &'a [[f32; PANEL]],
    /// What is written.
    pub output: &'a Columns<'a>,
    /// The row of the first token.
    pub first: usize,
}

/// Turns the sums `acc` `[panel][token][16]` of `panels` into outputs. `columns` is space for `U`.
///
/// # Safety
/// The instruction set of `V` is enabled; the panels exist, and no other thread writes their outputs.
#[inline(always)]
pub(crate) unsafe fn finish<V: Lanes>(
    epilogue: &Epilogue<'_>,
    panels: Range<usize>,
    acc: &[f32],
    columns: &mut Vec<f32>,
) {
    let tokens = epilogue.token_scales.len();
    let rank = epilogue.up.map_or(0, |up| up.groups.k);
    let padded = rank.next_multiple_of(LINE / PANEL) * PANEL;
    columns.resize(panels.len() * padded, 0.0);
    if let Some(up) = epilogue.up {
        for (panel, columns) in panels.clone().zip(columns.chunks_exact_mut(padded)) {
            // SAFETY: the caller's condition; a factor is of one of these two.
            unsafe {
                match up.coding {
                    Coding::Bf16 => decode::<V, V::Bf16>(up, panel, columns),
                    _ => decode::<V, V::E4M3>(up, panel, columns),
                }
            }
        }
    }
    // Row by row: the outputs of one lie far from those of the next.
    for (token, scale) in epilogue.token_scales.iter().enumerate() {
        let components = &epilogue.components[token * epilogue.stride..][..rank];
        for (at, panel) in panels.clone().enumerate() {
            let columns = &columns[at * padded..][..padded];
            let acc = &acc[(at * tokens + token) * PANEL..][..PANEL];
            let mut row = [0.0; PANEL];
            for part in (0..PANEL).step_by(V::COUNT) {
                // SAFETY: the caller's condition; every pointer is to a part of a panel.
                unsafe {
                    let mut y = V::load(acc[part..].as_ptr());
                    if let Some(scales) = epilogue.row_scales.get(panel) {
                        y = y.mul(V::load(scales[part..].as_ptr()));
                    }
                    y = y.mul(V::splat(*scale));
                    for (r, component) in components.iter().enumerate() {
                        y = V::splat(*component).fma(V::load(columns[r * PANEL + part..].as_ptr()), y);
                    }
                    if let Some(bias) = epilogue.bias.get(panel) {
                        y = y.add(V::load(bias[part..].as_ptr()));
                    }
                    y.store(row[part..].as_mut_ptr());
                }
            }
            // SAFETY: the caller's condition.
            unsafe { epilogue.output.write(epilogue.first + token, panel, row) };
        }
    }
}

/// The rows `U[r]` of a panel, `[r][16]`.
///
/// # Safety
/// As of [`finish`]; `columns` has room for whole lines.
#[inline(always)]
unsafe fn decode<V: Lanes, D: Decode<V>>(up: &Matrix, panel: usize, columns: &mut [f32]) {
    let lines = up.lines_of_panel();
    // SAFETY: the caller's condition.
    unsafe {
        let decode = D::new(&up.codebook);
        for (line, to) in
            up.lines[panel * lines..][..lines].iter().zip(columns.chunks_exact_mut(D::COLUMNS * PANEL))
        {
            for part in 0..PANEL / V::COUNT {
                for pair in 0..D::COLUMNS / 2 {
                    let (even, odd) = decode.pair(line.0.as_ptr(), part, pair);
                    let at = 2 * pair * PANEL + part * V::COUNT;
                    even.store(to[at..].as_mut_ptr());
                    odd.store(to[at + PANEL..].as_mut_ptr());
                }
            }
        }
    }
}
