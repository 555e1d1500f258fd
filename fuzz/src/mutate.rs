//! Changes to inputs: of bytes, and of the structures that bytes alone would seldom leave valid.

mod bytes;
mod json;
mod wire;
mod zip;

pub use bytes::change_bytes;
pub use json::change_json;
pub use wire::change_wire;
pub use zip::change_archive;

use fastrand::Rng;

/// Numbers at which sizes, counts and offsets go wrong.
const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    31,
    127,
    128,
    255,
    256,
    4095,
    65_535,
    65_536,
    1 << 31,
    (1 << 31) - 1,
    u32::MAX as u64,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX,
];

fn number(random: &mut Rng) -> u64 {
    match random.usize(..4) {
        0 => random.u64(..64),
        _ => NUMBERS[random.usize(..NUMBERS.len())],
    }
}

/// One of several; `None` of none.
fn one_of<'a, T>(random: &mut Rng, items: &'a [T]) -> Option<&'a T> {
    if items.is_empty() { None } else { items.get(random.usize(..items.len())) }
}
