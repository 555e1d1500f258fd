//! How large the arrays of a layer are.

/// Columns of a block.
pub const BLOCK: usize = 128;

/// Rows of a panel.
pub const PANEL: usize = 128;

/// Rows of a tile: half a panel, what a warpgroup multiplies at once.
pub const TILE: usize = 64;

/// Ranks of a low-rank branch are padded to a multiple of this.
pub const RANK_MULTIPLE: usize = 16;

/// Ranks that a low-rank block holds.
const RANKS_OF_BLOCK: usize = 32;

/// Bytes of the codes of a block of a tile, and of the values of `u` in a low-rank block.
pub(crate) const CODE_BYTES: usize = TILE * BLOCK / 2;

/// Kernels index rows, columns and ranks by 32-bit integers.
const LARGEST_DIMENSION: usize = i32::MAX as usize - BLOCK;

/// The shape of a packed layer, and what follows from it. Its sizes fit `usize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    n: usize,
    k: usize,
    group_size: usize,
    rank: usize,
}

/// Why a layer has no place in a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// A dimension is zero, or too large.
    #[error("{n} x {k} of rank {rank} is empty or larger than kernels can index")]
    Dimensions {
        /// Output features.
        n: usize,
        /// Input features.
        k: usize,
        /// Rank of the low-rank branch.
        rank: usize,
    },
    /// No group of this size divides a block, or is a number of blocks.
    #[error(
        "groups of {0} are none of 32, 64, a multiple of 128 or the whole row; use --group-size 64, 128 or 0"
    )]
    GroupSize(usize),
}

impl Geometry {
    /// The geometry of a layer of `n` output features and `k` input features, of which `group_size` share a scale, with a
    /// low-rank branch of rank `rank`, 0 for none. A group that is no shorter than the row means the row.
    ///
    /// # Errors
    /// When a dimension is zero or too large, or the group size is one that blocks cannot have.
    pub fn new(n: usize, k: usize, group_size: usize, rank: usize) -> Result<Self, GeometryError> {
        let dimensions = GeometryError::Dimensions { n, k, rank };
        let representable = |dimension| (1..=LARGEST_DIMENSION).contains(&dimension);
        if !representable(n) || !representable(k) || rank > LARGEST_DIMENSION {
            return Err(dimensions);
        }
        if group_size < k && !Self::is_group_size(group_size) {
            return Err(GeometryError::GroupSize(group_size));
        }
        let geometry = Self { n, k, group_size: group_size.min(k), rank };
        let column = geometry.panels().checked_mul(2 * geometry.block_bytes());
        match column.and_then(|bytes| bytes.checked_mul(geometry.blocks() + geometry.lorc_blocks())) {
            Some(_) => Ok(geometry),
            None => Err(dimensions),
        }
    }

    /// Whether groups of this size, where they are shorter than the row, can be packed.
    pub const fn is_group_size(group_size: usize) -> bool {
        matches!(group_size, 32 | 64) || group_size > 0 && group_size.is_multiple_of(BLOCK)
    }

    /// Output features.
    pub const fn n(self) -> usize {
        self.n
    }

    /// Input features.
    pub const fn k(self) -> usize {
        self.k
    }

    /// Input features that share a scale; [`k`](Self::k) for the whole row.
    pub const fn group_size(self) -> usize {
        self.group_size
    }

    /// Rank of the low-rank branch, 0 without one.
    pub const fn rank(self) -> usize {
        self.rank
    }

    /// Groups of a row.
    pub const fn groups(self) -> usize {
        self.k.div_ceil(self.group_size)
    }

    /// Steps that a block holds for a row: 4 or 2 for groups of 32 or 64 that are shorter than the row, else 1.
    pub const fn steps_per_block(self) -> usize {
        if self.group_size < self.k && self.group_size < BLOCK { BLOCK / self.group_size } else { 1 }
    }

    /// Panels of 128 rows.
    pub const fn panels(self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Rows with those that pad the last panel.
    pub const fn padded_rows(self) -> usize {
        self.panels() * PANEL
    }

    /// Blocks of 128 columns.
    pub const fn blocks(self) -> usize {
        self.k.div_ceil(BLOCK)
    }

    /// The rank, padded to a multiple of 16.
    pub const fn rank16(self) -> usize {
        self.rank.next_multiple_of(RANK_MULTIPLE)
    }

    /// Blocks of 32 ranks.
    pub const fn lorc_blocks(self) -> usize {
        self.rank16().div_ceil(RANKS_OF_BLOCK)
    }

    /// Bytes of a block of a tile: codes, then steps, padded so that those of a panel are whole lines of 128 bytes.
    pub const fn block_bytes(self) -> usize {
        let steps = TILE / 2 * self.steps_per_block();
        CODE_BYTES + if steps < 64 { 64 } else { steps }
    }

    /// Bytes of the array `weights`.
    pub const fn weights_bytes(self) -> usize {
        (self.blocks() + self.lorc_blocks()) * self.panels() * 2 * self.block_bytes()
    }

    /// Where block `block` of tile `tile` of a panel lies in the array `weights`; the low-rank blocks follow those of the
    /// codes.
    pub const fn block_offset(self, panel: usize, block: usize, tile: usize) -> usize {
        ((block * self.panels() + panel) * 2 + tile) * self.block_bytes()
    }

    /// Bytes of the arrays `row_scales` and `bias`.
    pub const fn row_bytes(self) -> usize {
        self.padded_rows() * size_of::<f32>()
    }
}

/// Bytes of the array `down` of an activation of `k` features with `rank` stacked ranks; `None` when they overflow.
pub(crate) fn down_bytes(k: usize, rank: usize) -> Option<usize> {
    k.div_ceil(BLOCK).checked_mul(BLOCK)?.checked_mul(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_a_block() {
        let steps = |k, group| Geometry::new(8, k, group, 0).map(Geometry::steps_per_block);
        assert_eq!(steps(192, 32), Ok(4));
        assert_eq!(steps(192, 64), Ok(2));
        assert_eq!([128, 256, 192, usize::MAX].map(|group| steps(384, group)), {
            let refused = Err(GeometryError::GroupSize(192));
            [Ok(1), Ok(1), refused, Ok(1)]
        });
        assert_eq!([steps(64, 64), steps(32, 32), steps(72, 72), steps(72, 100)], [Ok(1); 4], "whole rows");
        assert_eq!(steps(72, 64), Ok(2), "a short last group");
        assert_eq!(
            [0, 16, 96].map(|group| steps(256, group)),
            [0, 16, 96].map(|g| Err(GeometryError::GroupSize(g)))
        );
    }

    #[test]
    fn nothing_overflows() {
        let extremes = [0, 1, 127, LARGEST_DIMENSION, LARGEST_DIMENSION + 1, usize::MAX];
        for n in extremes {
            for k in extremes {
                for group_size in [0, 32, 128, usize::MAX] {
                    for rank in extremes {
                        let Ok(geometry) = Geometry::new(n, k, group_size, rank) else { continue };
                        assert!(geometry.weights_bytes() as u128 >= n as u128 * k as u128 / 2);
                    }
                }
            }
        }
        assert_eq!(down_bytes(usize::MAX, 1), None);
        assert_eq!(down_bytes(1, usize::MAX), None);
    }
}
