//! Two 4-bit codes in a byte.

/// Packs 4-bit codes two a byte, the first in the low nibble; an odd count is padded with 0. The high nibbles of `codes`
/// are ignored. This is the layout of ONNX's 4-bit types.
pub fn pack_nibbles(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|pair| (pair[0] & 0xF) | (pair.get(1).unwrap_or(&0) << 4)).collect()
}

/// Unpacks the first `len` codes of [`pack_nibbles`].
///
/// # Panics
///
/// If `packed` holds fewer than `len` codes.
pub fn unpack_nibbles(packed: &[u8], len: usize) -> Vec<u8> {
    assert!(len.div_ceil(2) <= packed.len(), "{} bytes hold fewer than {len} codes", packed.len());
    packed.iter().flat_map(|byte| [byte & 0xF, byte >> 4]).take(len).collect()
}
