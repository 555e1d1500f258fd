//! How long a linear kernel takes on a shape that was not measured, by what it took on those that were.

use zqc_kernels::{BLOCK, PANEL};

use super::{linear_variant, number};
use crate::variant::{LinearKernel, LinearVariant};

/// The sides of a weight as the kernels see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Panels of 128 rows.
    panels: usize,
    /// Blocks of 128 columns.
    pub blocks: usize,
}

impl Shape {
    pub fn new(n: usize, k: usize) -> Self {
        Self { panels: n.div_ceil(PANEL), blocks: k.div_ceil(BLOCK) }
    }
}

/// What a variant costs in microseconds, fitted to its times: `fixed`, and for every round of tiles that its clusters make `round`,
/// and `block` for each block of K that one of their blocks of threads goes through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    pub variant: LinearVariant,
    /// Clusters that the card held at a time.
    resident: usize,
    fixed: f64,
    round: f64,
    block: f64,
}

impl Cost {
    /// Reads kernel, tokens, cluster, blocks_per_sm, resident, fixed, round, block.
    pub fn parse(columns: &[&str]) -> Result<Self, String> {
        let &[kernel, tokens, cluster, blocks_per_sm, resident, fixed, round, block] = columns else {
            return Err(format!("{} columns of a cost instead of 8", columns.len()));
        };
        Ok(Self {
            variant: linear_variant(kernel, number(tokens)?, number(cluster)?, number(blocks_per_sm)?)?,
            resident: number(resident)?,
            fixed: number(fixed)?,
            round: number(round)?,
            block: number(block)?,
        })
    }

    /// Microseconds for `tokens` tokens on a card that has `share` times as many multiprocessors; `None` where the variant cannot do it.
    pub fn predict(&self, shape: Shape, tokens: usize, share: f64) -> Option<f64> {
        let LinearVariant { kernel, cluster, .. } = self.variant;
        let Shape { panels, blocks } = shape;
        let (cluster, width) = (cluster as usize, self.variant.tokens as usize);
        let (panels, blocks) = match kernel {
            LinearKernel::Decode if cluster <= blocks => (panels, blocks.div_ceil(cluster)),
            LinearKernel::Prefill => (panels.div_ceil(cluster), blocks),
            _ => return None,
        };
        if !self.variant.covers(tokens) {
            return None;
        }
        let resident = (self.resident as f64 * share).floor().max(1.0);
        let rounds = (panels * tokens.div_ceil(width)) as f64 / resident;
        // The widest tiles are cut into halves where these do in a last round.
        let halves = if kernel == LinearKernel::Prefill && width == 256 { 2.0 } else { 1.0 };
        let rounds = if rounds <= 1.0 { 1.0 } else { (rounds * halves).ceil() / halves };
        Some(self.fixed + rounds * (self.round + self.block * blocks as f64))
    }
}
