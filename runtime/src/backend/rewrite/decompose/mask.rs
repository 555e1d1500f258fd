//! The masks that attention operators take.

use zqc_ir::onnx::proto::tensor_proto::DataType;

use super::parts::Parts;

/// What a mask adds to the products of queries and keys, broadcast to `[B, heads, S, T]`: `filter` at every key that it hides. The
/// mask has the number of keys that count `[B]`, or a 0 for every hidden key `[B, T]` or `[B, S, T]`. `keys` is T, a vector of
/// one element.
pub fn bias(parts: &mut Parts, mask: &str, keys: &str, filter: f32) -> String {
    let mask = parts.cast(mask, DataType::Int64);
    let (counts, of_rows) = (parts.has_rank(&mask, 1), parts.has_rank(&mask, 3));
    let mask = parts.either(
        &counts,
        |parts| {
            let places = parts.range(keys);
            let counts = parts.unsqueeze(&mask, 1);
            let seen = parts.op("Less", &[&places, &counts], Vec::new());
            let seen = parts.cast(&seen, DataType::Int64);
            parts.unsqueeze(&seen, 1)
        },
        |parts| parts.either(&of_rows, |_| mask.clone(), |parts| parts.unsqueeze(&mask, 1)),
    );
    let mask = parts.unsqueeze(&mask, 1);
    let (nothing, none, all) = (parts.int(0), parts.float(0.0), parts.float(filter));
    let hidden = parts.op("Equal", &[&mask, &nothing], Vec::new());
    parts.op("Where", &[&hidden, &all, &none], Vec::new())
}
