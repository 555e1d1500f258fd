//! `EmbedLayerNormalization`: the rows of three tables, and the normalization of their sum.

use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::op::attribute;

use super::parts::Parts;

/// The inputs.
const IDS: usize = 0;
const SEGMENT_IDS: usize = 1;
const WORDS: usize = 2;
const PLACES: usize = 3;
const SEGMENTS: usize = 4;
const GAMMA: usize = 5;
const BETA: usize = 6;
const MASK: usize = 7;
const POSITIONS: usize = 8;

/// Without positions, tokens stand one after the other.
pub fn decompose(parts: &mut Parts) -> Option<()> {
    let ids = parts.input(IDS)?;
    let (words, places) = (parts.input(WORDS)?, parts.input(PLACES)?);
    let words = parts.op("Gather", &[words, ids], Vec::new());
    let places = match parts.input(POSITIONS) {
        Some(positions) => parts.op("Gather", &[places, positions], Vec::new()),
        None => {
            let (start, end) = (parts.ints(&[0]), parts.length(ids, 1));
            parts.slice(places, &start, &end, 0, 1)
        }
    };
    let mut sum = parts.op("Add", &[&words, &places], Vec::new());
    if let (Some(segments), Some(ids)) = (parts.input(SEGMENTS), parts.input(SEGMENT_IDS)) {
        let segments = parts.op("Gather", &[segments, ids], Vec::new());
        sum = parts.op("Add", &[&sum, &segments], Vec::new());
    }
    let epsilon = attribute::float("epsilon", parts.node().float_or("epsilon", 1e-12));
    let inputs = [&sum, parts.input(GAMMA)?, parts.input(BETA)?];
    let normal = parts.op("LayerNormalization", &inputs, vec![attribute::int("axis", -1), epsilon]);
    parts.yield_as(0, &normal);
    parts.yield_as(2, &sum);
    if parts.output(1).is_some() {
        // How many tokens count: [B].
        let mask = match parts.input(MASK) {
            Some(mask) => mask.to_string(),
            None => parts.op("Sub", &[ids, ids], Vec::new()),
        };
        let mask = parts.cast(&mask, DataType::Int32);
        let counts = parts.reduce("ReduceSum", &mask, 1, false);
        parts.yield_as(1, &counts);
    }
    Some(())
}
