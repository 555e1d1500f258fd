//! What becomes of the sums of a panel: scales, low-rank branch and bias.

use crate::lanes::{Decode, Lanes};
use crate::matrix::{Coding, LINE, Matrix, PANEL};

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
}

/// Turns the sums `acc` `[token][16]` of a panel into outputs. `columns` is space for `U`.
///
/// # Safety
/// The instruction set of `V` is enabled; `panel` exists.
#[inline(always)]
pub(crate) unsafe fn finish<V: Lanes>(
    epilogue: &Epilogue<'_>,
    panel: usize,
    acc: &mut [f32],
    columns: &mut Vec<f32>,
) {
    let rank = epilogue.up.map_or(0, |up| up.groups.k);
    if let Some(up) = epilogue.up {
        columns.resize(rank.next_multiple_of(LINE / PANEL) * PANEL, 0.0);
        // SAFETY: the caller's condition; a factor is of one of these two.
        unsafe {
            match up.coding {
                Coding::Bf16 => decode::<V, V::Bf16>(up, panel, columns),
                _ => decode::<V, V::E4M3>(up, panel, columns),
            }
        }
    }
    for (token, acc) in acc.chunks_exact_mut(PANEL).enumerate() {
        let components = &epilogue.components[token * epilogue.stride..][..rank];
        for part in (0..PANEL).step_by(V::COUNT) {
            // SAFETY: the caller's condition; every pointer is to a part of a panel.
            unsafe {
                let to = acc[part..].as_mut_ptr();
                let mut y = V::load(to);
                if let Some(scales) = epilogue.row_scales.get(panel) {
                    y = y.mul(V::load(scales[part..].as_ptr()));
                }
                y = y.mul(V::splat(epilogue.token_scales[token]));
                for (r, component) in components.iter().enumerate() {
                    y = V::splat(*component).fma(V::load(columns[r * PANEL + part..].as_ptr()), y);
                }
                if let Some(bias) = epilogue.bias.get(panel) {
                    y = y.add(V::load(bias[part..].as_ptr()));
                }
                y.store(to);
            }
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
