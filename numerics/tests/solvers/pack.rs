use proptest::{collection::vec, prelude::*};
use zqc_numerics::{pack_nibbles, unpack_nibbles};

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
}
