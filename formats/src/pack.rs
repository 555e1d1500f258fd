//! Two 4-bit codes in a byte.

use rayon::prelude::*;

/// Output rows that one rayon task transposes at least: as many codes as lie in a cache line of the input.
const TRANSPOSED_ROWS: usize = 128;

/// Packs 4-bit codes two a byte, the first in the low nibble; an odd count is padded with 0. The high nibbles of `codes`
/// are ignored. This is the layout of ONNX's 4-bit types.
pub fn pack_nibbles(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|pair| (pair[0] & 0xF) | (pair.get(1).unwrap_or(&0) << 4)).collect()
}

/// The transpose of a matrix of 4-bit codes whose rows are packed by [`pack_nibbles`]: from `rows` rows of `cols` codes
/// to `cols` rows of `rows` codes.
///
/// # Panics
///
/// If `packed` is not `rows` packed rows of `cols` codes.
pub fn transpose_nibbles(packed: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let (stride, out_stride) = (cols.div_ceil(2), rows.div_ceil(2));
    assert_eq!(packed.len(), rows * stride, "{rows} rows of {cols} codes");
    let mut transposed = vec![0; cols * out_stride];
    if rows == 0 {
        return transposed;
    }
    transposed.par_chunks_mut(out_stride).with_min_len(TRANSPOSED_ROWS).enumerate().for_each(|(col, out)| {
        let code = |row: usize| packed[row * stride + col / 2] >> (4 * (col % 2)) & 0xF;
        for (i, byte) in out.iter_mut().enumerate() {
            let high = if 2 * i + 1 < rows { code(2 * i + 1) } else { 0 };
            *byte = code(2 * i) | high << 4;
        }
    });
    transposed
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
