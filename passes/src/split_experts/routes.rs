//! Which tokens go to which expert.

use std::collections::HashMap;

use zqc_ir::ValueId;
use zqc_ir::onnx::proto::AttributeProto;
use zqc_ir::op::attribute::{int, ints};
use zqc_ir::tensor::DataType;

use super::AXIS;
use crate::draft::Draft;

/// The values that say where the tokens of a product go.
#[derive(Clone)]
pub(super) struct Route {
    /// By expert, the numbers of the tokens that choose it.
    tokens: Vec<String>,
    /// For every token, which of the concatenated `tokens` it is.
    back: String,
    /// The shape `[T, 1, 1]`.
    extent: String,
}

/// The routes of a graph, by what names the expert of every token and by the number of experts: the products of an expert
/// have theirs in common.
#[derive(Default)]
pub(super) struct Routes {
    known: HashMap<(ValueId, usize), Route>,
}

impl Routes {
    /// The route to these experts; its nodes join `draft` if it is new.
    pub fn get(&mut self, draft: &mut Draft, expert: ValueId, experts: usize) -> Route {
        self.known.entry((expert, experts)).or_insert_with(|| Route::new(draft, expert, experts)).clone()
    }
}

impl Route {
    fn new(draft: &mut Draft, expert: ValueId, experts: usize) -> Self {
        let chosen = draft.name(expert);
        let chosen = draft.node("Cast", vec![int("to", DataType::Int64 as i64)], &[chosen], "chosen");
        // The remainder has the sign of the divisor: an expert that is counted from the last one gets its number.
        let count = draft.integers(&[], &[experts as i64]);
        let chosen = draft.node("Mod", vec![], &[&chosen, &count], "expert");
        let vector = draft.integers(&[1], &[-1]);
        let tokens_of = |expert: usize| {
            let number = draft.integers(&[], &[expert as i64]);
            let is_chosen = draft.node("Equal", vec![], &[&chosen, &number], &format!("is.{expert}"));
            let places = draft.node("NonZero", vec![], &[&is_chosen], &format!("places.{expert}"));
            draft.node("Reshape", vec![], &[&places, &vector], &format!("tokens.{expert}"))
        };
        let tokens: Vec<String> = (0..experts).map(tokens_of).collect();
        let each: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let order = draft.node("Concat", vec![int("axis", 0)], &each, "order");
        let count = draft.node("Shape", vec![], &[&chosen], "count");
        // Sorting a permutation yields its inverse.
        let sorts = vec![int("axis", 0), int("largest", 0)];
        let parts = ["numbers", "back"].map(str::to_string).into_iter();
        let sorted = draft.node_of_several("TopK", sorts, &[&order, &count], parts);
        let ones = draft.integers(&[2], &[1, 1]);
        let extent = draft.node("Concat", vec![int("axis", 0)], &[&count, &ones], "extent");
        Self { tokens, back: sorted.into_iter().nth(1).unwrap_or_default(), extent }
    }
    /// By expert, the rows `[.., n, C, K]` of `x` that its tokens have; a column of a matrix `[K, C]` is such a row if the
    /// product has the stack `on_the_left`.
    pub fn rows(&self, draft: &mut Draft, x: &str, on_the_left: bool) -> Vec<String> {
        let mut rows = draft.node("Expand", vec![], &[x, &self.extent], "input");
        if on_the_left {
            rows = draft.node("Transpose", swapped(), &[&rows], "rows");
        }
        let rows_of = |(expert, tokens): (usize, &String)| {
            draft.node("Gather", vec![int("axis", AXIS)], &[&rows, tokens], &format!("input.{expert}"))
        };
        self.tokens.iter().enumerate().map(rows_of).collect()
    }

    /// Adds the nodes that yield the product, of what the experts yield.
    pub fn put_back(&self, draft: &mut Draft, each_yields: &[&str], on_the_left: bool) {
        let sorted = draft.node("Concat", vec![int("axis", AXIS)], each_yields, "sorted");
        let rows = draft.node("Gather", vec![int("axis", AXIS)], &[&sorted, &self.back], "output");
        if on_the_left {
            draft.node("Transpose", swapped(), &[&rows], "turned");
        }
    }
}

/// The order in which the last two of three axes are swapped.
fn swapped() -> Vec<AttributeProto> {
    vec![ints("perm", &[0, 2, 1])]
}
