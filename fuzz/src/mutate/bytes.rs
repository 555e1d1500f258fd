//! Changes that know no structure.

use fastrand::Rng;

use super::{number, one_of};

/// Changes `bytes` in one place, perhaps by a piece of `other`, a word or a number.
pub fn change_bytes(random: &mut Rng, bytes: &mut Vec<u8>, other: &[u8], words: &[&[u8]]) {
    let at = random.usize(..=bytes.len());
    let end = (at + 1 + random.usize(..32)).min(bytes.len());
    match random.usize(..9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
        1 if at < bytes.len() => bytes[at] = random.u8(..),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let piece = bytes[at..end].to_vec();
            let to = random.usize(..=bytes.len());
            bytes.splice(to..to, piece);
        }
        4 if !other.is_empty() => {
            let from = random.usize(..other.len());
            let piece = other[from..].iter().take(1 + random.usize(..64)).copied();
            bytes.splice(at..end, piece);
        }
        5 => {
            let width = [1, 2, 4, 8][random.usize(..4)];
            let number = number(random).to_le_bytes();
            bytes.iter_mut().skip(at).zip(&number[..width]).for_each(|(byte, new)| *byte = *new);
        }
        6 => change_number(random, bytes, at),
        7 => {
            if let Some(word) = one_of(random, words) {
                bytes.splice(at..at, word.iter().copied());
            }
        }
        _ => bytes.truncate(at),
    }
}

/// Gives the first decimal number after `at` another value.
fn change_number(random: &mut Rng, bytes: &mut Vec<u8>, at: usize) {
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if let Some(start) = (at..bytes.len()).find(|&i| bytes[i].is_ascii_digit()) {
        let end = start + digits(start);
        bytes.splice(start..end, number(random).to_string().into_bytes());
    }
}
