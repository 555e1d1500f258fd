//! Where the elements of a tile lie in its blocks: the order in which the 128 threads of a warpgroup hold the A operand of
//! `wgmma`. Rows are those of the tile, 0 to 63.

use crate::geometry::CODE_BYTES;

/// Bytes that hold words 0 and 1, or 2 and 3, of every thread; also those of a slice of 16 ranks.
pub(crate) const HALF: usize = CODE_BYTES / 2;

/// The thread of a warpgroup whose `quarter`th share (its lane modulo 4) of `row` and of the row 8 away it owns.
pub(crate) fn thread(row: usize, quarter: usize) -> usize {
    32 * (row / 16) + 4 * (row % 8) + quarter
}

/// Whether a row is the upper (0) or the lower (1) of the two that a thread owns.
pub(crate) fn half(row: usize) -> usize {
    row % 16 / 8
}

/// Where word `j`, columns `32 j` to `32 j + 31`, of a thread begins, for the upper or lower row.
pub(crate) fn word_offset(thread: usize, j: usize, half: usize) -> usize {
    HALF * (j / 2) + 16 * thread + 8 * (j % 2) + 4 * half
}

/// The bit of a word at which the magnitude of its code `i` begins.
pub(crate) fn magnitude_bit(i: usize) -> usize {
    4 * i
}

/// The bit of a word that is the sign of its code `i`.
pub(crate) fn sign_bit(i: usize) -> usize {
    if i < 4 { 8 * i + 7 } else { 8 * (i - 4) + 3 }
}

/// Where the steps of a row begin behind the codes, and the bit of the byte at which they do.
pub(crate) fn step_place(row: usize, steps_per_block: usize) -> (usize, usize) {
    let pair = 8 * (row / 16) + row % 8;
    (CODE_BYTES + pair * steps_per_block, 4 * half(row))
}

/// Where the value of a row for one of the 32 ranks of a low-rank block begins.
pub(crate) fn rank_offset(row: usize, rank: usize) -> usize {
    let (slice, rank) = (rank / 16, rank % 16);
    HALF * slice + 16 * thread(row, rank % 8 / 2) + 8 * (rank / 8) + 4 * half(row) + 2 * (rank % 2)
}

/// Where element `column` of row `row` lies among rows of 128 bytes whose chunks of 16 are swizzled.
pub(crate) fn swizzled(row: usize, column: usize) -> usize {
    128 * row + ((column / 16) ^ (row & 7)) * 16 + column % 16
}
