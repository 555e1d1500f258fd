//! The tile registers of AMX, and its instructions, which the compiler does not have as functions yet.

use std::arch::asm;

use crate::tiling::BLOCK;

/// Bytes between the rows of a tile.
pub(super) const ROW: usize = 64;

/// The shapes of the tile registers, as `ldtilecfg` reads them.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The tile registers, configured for this thread until the value is dropped.
pub(super) struct Tiles;

impl Tiles {
    /// Registers 0 to 3 for sums, 4 for `tokens` tokens, 6 and 7 for weights, and 5 for as many tokens more or, where there is
    /// `one_tile` of them, for weights.
    ///
    /// # Safety
    /// AMX is available; there are 1 to 16 tokens.
    pub(super) unsafe fn configure(tokens: usize, one_tile: bool) -> Self {
        let shape = |register| match register {
            5 if one_tile => ((BLOCK / 2) as u8, ROW as u16),
            0..6 => (tokens as u8, ROW as u16),
            6..8 => ((BLOCK / 2) as u8, ROW as u16),
            _ => (0, 0),
        };
        let configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: std::array::from_fn(|register| shape(register).1),
            rows: std::array::from_fn(|register| shape(register).0),
        };
        // SAFETY: the operand is a valid configuration.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &configuration, options(nostack, preserves_flags, readonly))
        };
        Self
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: there is a configuration only where AMX is available.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

/// # Safety
/// Tiles are configured.
#[inline(always)]
pub(super) unsafe fn zero<const TO: u8>() {
    // SAFETY: the caller's condition; the compiler uses no tile registers.
    unsafe { asm!("tilezero tmm{to}", to = const TO, options(nostack, preserves_flags, nomem)) };
}

/// # Safety
/// Tiles are configured; `from` points to a tile of 1 KiB.
#[inline(always)]
pub(super) unsafe fn load<const TO: u8>(from: *const u8) {
    // SAFETY: the caller's condition; the compiler uses no tile registers.
    unsafe {
        asm!("tileloadd tmm{to}, [{from} + {stride}]", to = const TO, from = in(reg) from, stride = in(reg) ROW,
             options(nostack, preserves_flags, readonly))
    };
}

/// # Safety
/// Tiles are configured; `to` points to a tile of 1 KiB.
#[inline(always)]
pub(super) unsafe fn store<const FROM: u8>(to: *mut f32) {
    // SAFETY: the caller's condition.
    unsafe {
        asm!("tilestored [{to} + {stride}], tmm{from}", from = const FROM, to = in(reg) to, stride = in(reg) ROW,
             options(nostack, preserves_flags))
    };
}

/// Adds the products of a block of tokens and one of weights.
///
/// # Safety
/// Tiles are configured.
#[inline(always)]
pub(super) unsafe fn add_products<const SUMS: u8, const TOKENS: u8, const WEIGHTS: u8>() {
    // SAFETY: the caller's condition; the compiler uses no tile registers.
    unsafe {
        asm!("tdpbf16ps tmm{sums}, tmm{tokens}, tmm{weights}", sums = const SUMS, tokens = const TOKENS,
             weights = const WEIGHTS, options(nostack, preserves_flags, nomem))
    };
}
