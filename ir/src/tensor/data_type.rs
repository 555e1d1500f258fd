//! What is to be known of an element type.

use super::DataType;

/// Bits an element, packed; `None` for strings and undefined.
pub fn bits(dtype: DataType) -> Option<usize> {
    use DataType::*;
    Some(match dtype {
        Int2 | Uint2 => 2,
        Int4 | Uint4 | Float4e2m1 => 4,
        Float6e2m3 | Float6e3m2 => 6,
        Bool | Int8 | Uint8 | Float8e4m3fn | Float8e4m3fnuz | Float8e5m2 | Float8e5m2fnuz | Float8e8m0 => 8,
        Int16 | Uint16 | Float16 | Bfloat16 => 16,
        Int32 | Uint32 | Float => 32,
        Int64 | Uint64 | Double | Complex64 => 64,
        Complex128 => 128,
        String | Undefined => return None,
    })
}

/// The short name used in the textual form: `f32`, `i64`, `f8e4m3` ...
pub fn name(dtype: DataType) -> &'static str {
    use DataType::*;
    match dtype {
        Undefined => "?",
        Float => "f32",
        Double => "f64",
        Float16 => "f16",
        Bfloat16 => "bf16",
        Float8e4m3fn => "f8e4m3",
        Float8e4m3fnuz => "f8e4m3fnuz",
        Float8e5m2 => "f8e5m2",
        Float8e5m2fnuz => "f8e5m2fnuz",
        Float8e8m0 => "f8e8m0",
        Float6e2m3 => "f6e2m3",
        Float6e3m2 => "f6e3m2",
        Float4e2m1 => "f4e2m1",
        Int2 => "i2",
        Uint2 => "u2",
        Int4 => "i4",
        Uint4 => "u4",
        Int8 => "i8",
        Uint8 => "u8",
        Int16 => "i16",
        Uint16 => "u16",
        Int32 => "i32",
        Uint32 => "u32",
        Int64 => "i64",
        Uint64 => "u64",
        Bool => "bool",
        Complex64 => "c64",
        Complex128 => "c128",
        String => "str",
    }
}
