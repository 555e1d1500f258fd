//! Attention in standard operators, for what the attention operators of a back end lack.

use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::op::attribute;

use super::parts::Parts;

/// What keeps a key from being seen, without the NaN of a row of infinities.
pub const HIDDEN: f32 = f32::MIN / 2.0;

/// What there is besides query, keys and values.
pub struct Options<'a> {
    /// What the products are multiplied by; by default one over the root of the width of a head.
    pub scale: Option<f32>,
    /// Products `x` become `c tanh(x / c)`; 0 for none.
    pub softcap: f32,
    /// What is added to the products, each broadcast to `[B, heads, S, T]`.
    pub biases: &'a [String],
    /// A further product for each query, which takes its share of the softmax and has no value: broadcast to `[B, heads, S, 1]`.
    pub sink: Option<String>,
}

/// `softmax(q kᵀ) v` of queries `[B, heads, S, D]`, keys `[B, heads, T, D]` and values `[B, heads, T, V]`: `[B, heads, S, V]`.
pub fn attend(parts: &mut Parts, q: &str, k: &str, v: &str, options: &Options) -> String {
    let scale = match options.scale {
        Some(scale) => parts.float(scale),
        None => {
            let width = parts.length(q, 3);
            let width = parts.cast(&width, DataType::Float);
            let root = parts.op("Sqrt", &[&width], Vec::new());
            parts.op("Reciprocal", &[&root], Vec::new())
        }
    };
    let q = parts.op("Mul", &[q, &scale], Vec::new());
    let k = parts.transpose(k, &[0, 1, 3, 2]);
    let mut scores = parts.op("MatMul", &[&q, &k], Vec::new());
    if options.softcap > 0.0 {
        let cap = parts.float(options.softcap);
        scores = parts.op("Div", &[&scores, &cap], Vec::new());
        scores = parts.op("Tanh", &[&scores], Vec::new());
        scores = parts.op("Mul", &[&scores, &cap], Vec::new());
    }
    for bias in options.biases {
        scores = parts.op("Add", &[&scores, bias], Vec::new());
    }
    let softmax = vec![attribute::int("axis", -1)];
    let Some(sink) = &options.sink else {
        let shares = parts.op("Softmax", &[&scores], softmax);
        return parts.op("MatMul", &[&shares, v], Vec::new());
    };
    let (shape, one) = (parts.op("Shape", &[&scores], Vec::new()), parts.ints(&[1]));
    let rows = parts.part(&shape, 0, 3, 0);
    let column = parts.concat(&[&rows, &one], 0);
    let sink = parts.op("Expand", &[sink, &column], Vec::new());
    let scores = parts.concat(&[&scores, &sink], 3);
    let shares = parts.op("Softmax", &[&scores], softmax);
    let shares = parts.part(&shares, 0, -1, 3);
    parts.op("MatMul", &[&shares, v], Vec::new())
}

/// `[B, heads, T, D]` as `[B, T, heads D]`.
pub fn merge_heads(parts: &mut Parts, x: &str) -> String {
    let x = parts.transpose(x, &[0, 2, 1, 3]);
    parts.reshape(&x, &[0, 0, -1])
}
