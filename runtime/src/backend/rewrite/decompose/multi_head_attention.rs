//! `MultiHeadAttention`: its forms of keys, values and masks as the plain one.

use super::mask;
use super::parts::Parts;
use super::scaled_dot_product::merge_heads;

/// What hidden keys get, and its default.
pub const MASK_FILTER: &str = "mask_filter_value";
/// See [`MASK_FILTER`].
pub const FILTER: f32 = -10000.0;

/// The inputs.
const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;
const MASK: usize = 4;
const PRODUCT_BIAS: usize = 5;
const PAST_KEY: usize = 6;
const PAST_LENGTH: usize = 8;

/// Keys and values may be `[B, heads, T, D]`, as those of another model's output are, or packed `[B, T, heads, 2, D]`, and the mask
/// of any form. One that writes to its cache in place stays, as does one that yields its products.
pub fn decompose(parts: &mut Parts) -> Option<()> {
    if parts.input(PAST_LENGTH).is_some() || parts.output(3).is_some() {
        return None;
    }
    let node = parts.node();
    let mut input = node.input.clone();
    input.resize(PAST_LENGTH, String::new());
    if let Some(key) = parts.input(KEY) {
        let [key, value] = match parts.input(VALUE) {
            Some(value) => [key, value].map(|x| {
                let has_heads = parts.has_rank(x, 4);
                parts.either(&has_heads, |parts| merge_heads(parts, x), |_| x.to_string())
            }),
            None => [0, 1].map(|at| {
                let part = parts.part(key, at, at + 1, 3);
                parts.reshape(&part, &[0, 0, -1])
            }),
        };
        if let Some(mask) = parts.input(MASK) {
            let mut keys = parts.length(&key, 1);
            if let Some(past) = parts.input(PAST_KEY) {
                let cached = parts.length(past, 2);
                keys = parts.op("Add", &[&keys, &cached], Vec::new());
            }
            let mask = mask::bias(parts, mask, &keys, node.float_or(MASK_FILTER, FILTER));
            input[MASK].clear();
            input[PRODUCT_BIAS] = match parts.input(PRODUCT_BIAS) {
                Some(bias) => parts.op("Add", &[bias, &mask], Vec::new()),
                None => mask,
            };
        }
        (input[KEY], input[VALUE]) = (key, value);
    }
    let last = input.iter().rposition(|name| !name.is_empty()).unwrap_or(QUERY);
    let input: Vec<&str> = input[..=last].iter().map(String::as_str).collect();
    parts.contrib("MultiHeadAttention", &input, node.output.clone(), node.attribute.clone());
    Some(())
}
