use proptest::{collection::vec, prelude::*};
use zqc_formats::{pack_nibbles, transpose_nibbles, unpack_nibbles};

#[test]
fn the_first_code_is_in_the_low_nibble() {
    assert_eq!(pack_nibbles(&[0x1, 0x2, 0xF]), [0x21, 0x0F]);
}

proptest! {
    #[test]
    fn unpacking_undoes_packing(codes in vec(0u8..16, 0..100)) {
        let packed = pack_nibbles(&codes);
        prop_assert_eq!(packed.len(), codes.len().div_ceil(2));
        prop_assert_eq!(unpack_nibbles(&packed, codes.len()), codes);
    }

    #[test]
    fn transposing_moves_every_code(rows in 0usize..9, cols in 0usize..300, seed in any::<u64>()) {
        let code = |row: usize, col: usize| ((seed >> ((row * 7 + col * 3) % 61)) & 0xF) as u8;
        let packed: Vec<u8> =
            (0..rows).flat_map(|row| pack_nibbles(&(0..cols).map(|col| code(row, col)).collect::<Vec<_>>())).collect();
        let expected: Vec<u8> =
            (0..cols).flat_map(|col| pack_nibbles(&(0..rows).map(|row| code(row, col)).collect::<Vec<_>>())).collect();
        prop_assert_eq!(transpose_nibbles(&packed, rows, cols), expected);
    }
}
