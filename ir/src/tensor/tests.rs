//! Tensors in every storage that ONNX has.

use super::*;

#[test]
fn typed_fields_and_raw_bytes_read_alike() {
    let raw = Tensor::from_f32(&[2], vec![1.5, -2.0]).unwrap();
    let typed = TensorProto { raw_data: None, float_data: vec![1.5, -2.0], ..TensorProto::clone(&raw.proto) };
    let typed = Tensor::from_proto(typed);
    assert_eq!(raw.bytes().unwrap(), typed.bytes().unwrap());
    assert_eq!(typed.to_f32().unwrap(), [1.5, -2.0]);
}

#[test]
fn half_in_int32_data_is_widened() {
    let proto = TensorProto {
        dims: vec![1],
        data_type: Some(DataType::Float16 as i32),
        int32_data: vec![0x3e00],
        ..Default::default()
    };
    assert_eq!(Tensor::from_proto(proto).to_f32().unwrap(), [1.5]);
}

#[test]
fn six_bit_codes_are_packed_as_in_raw_data() {
    let codes = |count: i32| TensorProto {
        dims: vec![i64::from(count)],
        data_type: Some(DataType::Float6e2m3 as i32),
        int32_data: (1..=count).collect(),
        ..Default::default()
    };
    let [a, b, c, _] = 0b000100_000011_000010_000001u32.to_le_bytes();
    for (count, bytes) in [(1, 1), (2, 2), (3, 3), (4, 3)] {
        let tensor = Tensor::from_proto(codes(count));
        tensor.check().unwrap();
        assert_eq!(tensor.bytes().unwrap().len(), bytes);
    }
    assert_eq!(*Tensor::from_proto(codes(5)).bytes().unwrap(), [a, b, c, 5]);
}

#[test]
fn parts_share_the_payload() {
    let whole = Tensor::from_f32(&[2, 1, 2], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
    let parts = whole.parts().unwrap();
    assert_eq!(parts[1], Tensor::from_f32(&[1, 2], vec![3.0, 4.0]).unwrap());
    let address = |tensor: &Tensor| tensor.bytes().unwrap().as_ptr();
    assert_eq!(
        parts.iter().map(address).collect::<Vec<_>>(),
        [address(&whole), address(&whole).wrapping_add(8)]
    );
    assert!(Tensor::from_f32(&[], vec![1.0]).unwrap().parts().is_err());
    let nibbles = Tensor::new(DataType::Uint4, &[2, 3], vec![0u8; 3]).unwrap();
    assert!(nibbles.parts().is_err(), "the second part begins within a byte");
}

#[test]
fn sizes_are_checked_before_anything_is_read() {
    let wrong = Tensor::new(DataType::Float, &[3], vec![0u8; 8]);
    assert!(matches!(wrong, Err(TensorError::Size { expected: 12, found: 8, .. })));
    let odd = Tensor::new(DataType::Float4e2m1, &[3], vec![0u8; 2]);
    assert!(odd.is_ok(), "three 4-bit codes take two bytes");
    let huge = TensorProto { dims: vec![i64::MAX, 8], data_type: Some(1), ..Default::default() };
    assert!(matches!(Tensor::from_proto(huge).check(), Err(TensorError::Dimensions(_))));
    let negative = TensorProto { dims: vec![-1], data_type: Some(1), ..Default::default() };
    assert!(matches!(Tensor::from_proto(negative).check(), Err(TensorError::Dimensions(_))));
    let unknown = TensorProto { dims: vec![1], data_type: Some(999), ..Default::default() };
    assert_eq!(Tensor::from_proto(unknown).check(), Err(TensorError::UnknownType(999)));
    let untyped = TensorProto { dims: vec![0], ..Default::default() };
    assert_eq!(Tensor::from_proto(untyped).check(), Err(TensorError::UnknownType(0)));
}
