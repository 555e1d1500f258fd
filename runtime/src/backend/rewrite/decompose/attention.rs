//! `Attention`: the projections of queries, keys and values, and `MultiHeadAttention` of them.

use zqc_ir::op::attribute;

use super::mask;
use super::multi_head_attention::{FILTER, MASK_FILTER};
use super::parts::Parts;

/// The inputs.
const BIAS: usize = 2;
const MASK: usize = 3;
const PAST: usize = 4;
const PRODUCT_BIAS: usize = 5;
const PAST_LENGTH: usize = 6;

/// One with rotary positions stays, as does one that writes to its cache in place.
pub fn decompose(parts: &mut Parts) -> Option<()> {
    if parts.is_set("do_rotary") || parts.input(PAST_LENGTH).is_some() {
        return None;
    }
    let node = parts.node();
    let (x, weights) = (parts.input(0)?, parts.input(1)?);
    let mut packed = parts.op("MatMul", &[x, weights], Vec::new());
    if let Some(bias) = parts.input(BIAS) {
        packed = parts.op("Add", &[&packed, bias], Vec::new());
    }
    let [q, k, v] = match node.ints("qkv_hidden_sizes") {
        Some(&[q, k, v]) => {
            [(0, q), (q, q + k), (q + k, q + k + v)].map(|(start, end)| parts.part(&packed, start, end, 2))
        }
        Some(_) => return None,
        None => {
            let thirds = parts.reshape(&packed, &[0, 0, 3, -1]);
            [0, 1, 2].map(|third| {
                let part = parts.part(&thirds, third, third + 1, 2);
                parts.reshape(&part, &[0, 0, -1])
            })
        }
    };
    let mut keys = parts.length(&k, 1);
    let [past_key, past_value] = match parts.input(PAST) {
        None => [String::new(), String::new()],
        Some(past) => {
            let past = [0, 1].map(|at| {
                let at = parts.int(at);
                parts.op("Gather", &[past, &at], Vec::new())
            });
            let cached = parts.length(&past[0], 2);
            keys = parts.op("Add", &[&keys, &cached], Vec::new());
            past
        }
    };
    let mut bias = parts.input(PRODUCT_BIAS).map_or(String::new(), str::to_string);
    if let Some(mask) = parts.input(MASK) {
        let mask = mask::bias(parts, mask, &keys, node.float_or(MASK_FILTER, FILTER));
        bias = if bias.is_empty() { mask } else { parts.op("Add", &[&bias, &mask], Vec::new()) };
    }
    let kept = ["num_heads", "scale", "unidirectional", MASK_FILTER];
    let attributes: Vec<_> =
        node.attribute.iter().filter(|attribute| kept.contains(&attribute.name())).cloned().collect();
    let y = parts.output(0)?.to_string();
    let inputs = [&q, &k, &v, "", "", &bias, &past_key, &past_value];
    let inputs = &inputs[..inputs.iter().rposition(|name| !name.is_empty())? + 1];
    if parts.output(1).is_none() {
        parts.contrib("MultiHeadAttention", inputs, vec![y], attributes);
        return Some(());
    }
    let [present_key, present_value] = [parts.fresh(), parts.fresh()];
    parts.contrib(
        "MultiHeadAttention",
        inputs,
        vec![y, present_key.clone(), present_value.clone()],
        attributes,
    );
    let present = [present_key, present_value].map(|x| parts.unsqueeze(&x, 0));
    let present = parts.op("Concat", &[&present[0], &present[1]], vec![attribute::int("axis", 0)]);
    parts.yield_as(1, &present);
    Some(())
}
