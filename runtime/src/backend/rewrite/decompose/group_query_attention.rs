//! `GroupQueryAttention`: without the parts that only some back ends know where that is all there is to it, else in standard
//! operators.

use zqc_ir::onnx::proto::NodeProto;
use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::op::attribute;

use super::parts::Parts;
use super::rotary::rotate;
use super::scaled_dot_product::{HIDDEN, Options, attend, merge_heads};

/// The inputs.
const PAST_KEY: usize = 3;
const PAST_VALUE: usize = 4;
const LENGTHS: usize = 5;
const COS: usize = 7;
const SIN: usize = 8;
const POSITIONS: usize = 9;
const BIAS: usize = 10;
const SINK: usize = 11;
/// The weights of the normalization of queries and keys, with the attributes of its epsilon.
const NORMS: [(usize, &str); 2] = [(14, "q_norm_epsilon"), (15, "k_norm_epsilon")];
/// Scales of a quantized cache, and lengths of padded queries.
const UNCOVERED: [usize; 3] = [12, 13, 16];
/// What plain attention has not, besides the inputs above: normalization, and a cache that is as long as the window only, which
/// makes no difference to a prompt.
const EXTRAS: [&str; 4] = ["sliding_window_cache", "qk_norm_epsilon", "q_norm_epsilon", "k_norm_epsilon"];

/// Plain attention of what is normalized before it; any other form stays.
pub fn without_extras(parts: &mut Parts) -> Option<()> {
    let node = parts.node();
    let has_extras = parts.is_set("sliding_window_cache") || parts.input(NORMS[0].0).is_some();
    if !has_extras || is_uncovered(parts) || parts.input(SINK).is_some() {
        return None;
    }
    if node.int_or("smooth_softmax", -1) > 0 || node.int_or("causal", 1) != 1 {
        return None;
    }
    let [q, k, v] = heads(parts, node)?.map(|x| parts.reshape(&x, &[0, 0, -1]));
    let mut inputs = vec![q.as_str(), &k, &v];
    inputs.extend(node.input.iter().skip(3).take(SINK - 3).map(String::as_str));
    let attributes = node.attribute.iter().filter(|attribute| !EXTRAS.contains(&attribute.name())).cloned();
    parts.contrib("GroupQueryAttention", &inputs, node.output.clone(), attributes.collect());
    Some(())
}

/// Whether its cache is quantized, its queries are padded, or it yields its products.
fn is_uncovered(parts: &Parts) -> bool {
    UNCOVERED.iter().any(|&at| parts.input(at).is_some()) || parts.output(3).is_some()
}

/// Queries, keys and values, normalized, `[B, T, heads, D]`.
fn heads(parts: &mut Parts, node: &NodeProto) -> Option<[String; 3]> {
    let (heads, groups) = (parts.count_of("num_heads")?, parts.count_of("kv_num_heads")?);
    let query = parts.input(0)?;
    let [mut q, mut k, v] = match (parts.input(1), parts.input(2)) {
        (Some(key), Some(value)) => {
            // Keys may be none, of which no width can be inferred.
            let q = parts.reshape(query, &[0, 0, heads, -1]);
            let (width, rest) = (parts.length(&q, 3), parts.ints(&[0, 0, groups]));
            let shape = parts.concat(&[&rest, &width], 0);
            let [k, v] = [key, value].map(|x| parts.op("Reshape", &[x, &shape], Vec::new()));
            [q, k, v]
        }
        _ => {
            let packed = parts.reshape(query, &[0, 0, heads + 2 * groups, -1]);
            let ends = [(0, heads), (heads, heads + groups), (heads + groups, heads + 2 * groups)];
            ends.map(|(start, end)| parts.part(&packed, start, end, 2))
        }
    };
    let common = node.float_or("qk_norm_epsilon", 1e-6);
    for (x, (at, epsilon)) in [&mut q, &mut k].into_iter().zip(NORMS) {
        if let Some(weight) = parts.input(at) {
            let epsilon = attribute::float("epsilon", node.float_or(epsilon, common));
            let attributes = vec![attribute::int("axis", -1), epsilon];
            *x = parts.op("SimplifiedLayerNormalization", &[x, weight], attributes);
        }
    }
    Some([q, k, v])
}

/// Any form but those with a quantized cache, padded queries or the products as a result.
///
/// A cache may hold more than is valid, and keys need not stand in the order of their positions: each has its position, and one
/// that is not valid has one that no query sees. Keys that are given are the last; where there are none, the cache of another
/// layer holds all.
pub fn in_standard_operators(parts: &mut Parts) -> Option<()> {
    if is_uncovered(parts) {
        return None;
    }
    let node = parts.node();
    let per_group = parts.count_of("num_heads")? / parts.count_of("kv_num_heads")?;
    let [mut q, mut k, mut v] = heads(parts, node)?.map(|x| parts.transpose(&x, &[0, 2, 1, 3]));
    let (queries, given) = (parts.length(&q, 2), parts.length(&k, 2));
    let lengths = parts.input(LENGTHS)?;
    let lengths = parts.cast(lengths, DataType::Int64);
    let lengths = parts.reshape(&lengths, &[-1, 1]);
    let (zero, one) = (parts.int(0), parts.int(1));
    let total = parts.op("Add", &[&lengths, &one], Vec::new());
    let mut before = |count: &str| {
        let before = parts.op("Sub", &[&total, count], Vec::new());
        let negative = parts.op("Less", &[&before, &zero], Vec::new());
        parts.op("Where", &[&negative, &zero, &before], Vec::new())
    };
    // Of the queries, and of the keys that are given: [B, 1].
    let (first, cached) = (before(&queries), before(&given));
    let places = parts.range(&queries);
    let query_positions = parts.op("Add", &[&first, &places], Vec::new());
    let places = parts.range(&given);
    let mut key_positions = parts.op("Add", &[&cached, &places], Vec::new());

    if parts.is_set("do_rotary") {
        let tables = [parts.input(COS)?, parts.input(SIN)?];
        let positions = parts.input(POSITIONS).unwrap_or(&query_positions).to_string();
        let interleaved = parts.is_set("rotary_interleaved");
        // Keys that are given stand where the queries do.
        let start = parts.ints(&[0]);
        let of_keys = parts.slice(&positions, &start, &given, 1, 1);
        q = rotate(parts, &q, &positions, tables, interleaved);
        k = rotate(parts, &k, &of_keys, tables, interleaved);
    }
    if let (Some(past_key), Some(past_value)) = (parts.input(PAST_KEY), parts.input(PAST_VALUE)) {
        let never = parts.int(i64::from(i32::MAX));
        let capacity = parts.length(past_key, 2);
        let places = parts.range(&capacity);
        let is_valid = parts.op("Less", &[&places, &cached], Vec::new());
        let positions = parts.op("Where", &[&is_valid, &places, &never], Vec::new());
        key_positions = parts.concat(&[&positions, &key_positions], 1);
        k = parts.concat(&[past_key, &k], 2);
        v = parts.concat(&[past_value, &v], 2);
    }
    parts.yield_as(1, &k);
    parts.yield_as(2, &v);

    let mut biases = Vec::new();
    biases.extend(parts.input(BIAS).map(str::to_string));
    let window = parts.count_of("local_window_size");
    biases.push(hidden_keys(parts, &query_positions, &key_positions, window));
    let sink = match parts.input(SINK) {
        Some(sink) => Some(parts.reshape(sink, &[1, -1, 1, 1])),
        None if node.int_or("smooth_softmax", -1) > 0 => Some(parts.float(0.0)),
        None => None,
    };
    if per_group > 1 {
        let groups = parts.count_of("kv_num_heads")?;
        let of_head: Vec<i64> = (0..groups * per_group).map(|head| head / per_group).collect();
        let of_head = parts.ints(&of_head);
        [k, v] = [k, v].map(|x| parts.op("Gather", &[&x, &of_head], vec![attribute::int("axis", 1)]));
    }
    let scale = parts.float_of("scale").filter(|&scale| scale != 0.0);
    let options = Options { scale, softcap: node.float_or("softcap", 0.0), biases: &biases, sink };
    let y = attend(parts, &q, &k, &v, &options);
    let y = merge_heads(parts, &y);
    parts.yield_as(0, &y);
    Some(())
}

/// What hides keys at positions `[B, T]` from queries at positions `[B, S]`: later ones, and those before the window.
fn hidden_keys(parts: &mut Parts, queries: &str, keys: &str, window: Option<i64>) -> String {
    let is_causal = parts.node().int_or("causal", 1) == 1;
    let (queries, keys) = (parts.unsqueeze(queries, 2), parts.unsqueeze(keys, 1));
    let behind = parts.op("Sub", &[&queries, &keys], Vec::new());
    let least = parts.int(if is_causal { 0 } else { i64::from(i32::MIN / 2) });
    let mut hidden = parts.op("Less", &[&behind, &least], Vec::new());
    if let Some(window) = window {
        let last = parts.int(window - 1);
        let before = parts.op("Greater", &[&behind, &last], Vec::new());
        hidden = parts.op("Or", &[&hidden, &before], Vec::new());
    }
    let hidden = parts.unsqueeze(&hidden, 1);
    let (none, all) = (parts.float(0.0), parts.float(HIDDEN));
    parts.op("Where", &[&hidden, &all, &none], Vec::new())
}
