//! The lines of a packed matrix: which codes go where.

use std::ops::Range;

use crate::layer::{Layer, Layout};
use crate::tiling::{Coding, LINE, PANEL};

/// What a line holds.
pub(crate) struct Place {
    /// Input features.
    pub k: Range<usize>,
    /// Output features.
    pub n: Range<usize>,
}

impl Place {
    /// Calls `element` with the column, the lane and both features of every element.
    pub(crate) fn each(self, mut element: impl FnMut(usize, usize, usize, usize)) {
        for (column, k) in self.k.enumerate() {
            for (lane, n) in self.n.clone().enumerate() {
                element(column, lane, k, n);
            }
        }
    }
}

/// Fills a line with codes of a layer.
pub(crate) fn fill(layer: &Layer<'_>, place: Place, line: &mut [u8; LINE]) {
    let lanes = place.n.len();
    match (layer.layout, layer.format.bits()) {
        // A row of the file has the codes of a panel side by side: 8 bytes, or 16.
        (Layout::InputMajor, 4) => {
            let stride = layer.n.div_ceil(2);
            let mut words = [0u32; PANEL];
            for (column, k) in place.k.enumerate() {
                let mut bytes = [0; PANEL / 2];
                let from = &layer.codes[k * stride + place.n.start / 2..][..lanes.div_ceil(2)];
                bytes[..from.len()].copy_from_slice(from);
                let codes = u64::from_le_bytes(bytes);
                for (lane, word) in words.iter_mut().enumerate() {
                    *word |= ((codes >> (4 * lane)) as u32 & 0xF) << (16 * (column % 2) + 4 * (column / 2));
                }
            }
            for (to, word) in line.as_chunks_mut().0.iter_mut().zip(words).take(lanes) {
                *to = word.to_le_bytes();
            }
        }
        (Layout::InputMajor, _) => {
            for (to, k) in line.chunks_exact_mut(PANEL).zip(place.k) {
                to[..lanes].copy_from_slice(&layer.codes[k * layer.n + place.n.start..][..lanes]);
            }
        }
        (Layout::OutputMajor, _) => {
            let coding = Coding::of(layer.format);
            place.each(|column, lane, k, n| put(coding, line, lane, column, layer.code(k, n).into()));
        }
    }
}

/// Puts the code of an output feature and an input feature in its place in a line.
pub(crate) fn put(coding: Coding, line: &mut [u8; LINE], lane: usize, column: usize, code: u16) {
    let element = 2 * (2 * lane + column % 2);
    match coding {
        Coding::Nibbles => line[element + column / 4] |= (code as u8) << (4 * (column / 2 % 2)),
        Coding::E4M3 | Coding::E5M2 | Coding::Int8 => line[PANEL * column + lane] = code as u8,
        Coding::Bf16 => line[element..element + 2].copy_from_slice(&code.to_le_bytes()),
    }
}
