//! Which tokens go to which expert.

use std::collections::HashMap;

use zqc_ir::onnx::proto::AttributeProto;
use zqc_ir::op::attribute::{int, ints};
use zqc_ir::tensor::DataType;
use zqc_ir::{ChangeBuilder, ValueId, ValueRef};

use super::AXIS;

/// The values that say where the tokens of a product go.
#[derive(Clone)]
pub(super) struct Route {
    /// By expert, the numbers of the tokens that choose it.
    tokens: Vec<ValueRef>,
    /// For every token, which of the concatenated `tokens` it is.
    back: ValueRef,
    /// The shape `[T, 1, 1]`.
    extent: ValueRef,
}

/// The routes of a graph, by what names the expert of every token and by the number of experts: the products of an expert
/// have theirs in common.
#[derive(Default)]
pub(super) struct Routes {
    known: HashMap<(ValueId, usize), Route>,
}

impl Routes {
    /// The route to these experts; its nodes join `change` if it is new.
    pub fn get(&mut self, change: &mut ChangeBuilder, expert: ValueId, experts: usize) -> Route {
        self.known.entry((expert, experts)).or_insert_with(|| Route::new(change, expert, experts)).clone()
    }
}

impl Route {
    fn new(change: &mut ChangeBuilder, expert: ValueId, experts: usize) -> Self {
        let chosen = change.op("Cast", [expert.into()]).with([int("to", DataType::Int64 as i64)]);
        let chosen = chosen.output("chosen");
        // The remainder has the sign of the divisor: an expert that is counted from the last one gets its number.
        let count = change.integers(&[], &[experts as i64]);
        let chosen = change.op("Mod", [chosen, count]).output("expert");
        let vector = change.integers(&[1], &[-1]);
        let tokens_of = |expert: usize| {
            let number = change.integers(&[], &[expert as i64]);
            let is_chosen = change.op("Equal", [chosen.clone(), number]).output(&format!("is.{expert}"));
            let places = change.op("NonZero", [is_chosen]).output(&format!("places.{expert}"));
            change.op("Reshape", [places, vector.clone()]).output(&format!("tokens.{expert}"))
        };
        let tokens: Vec<ValueRef> = (0..experts).map(tokens_of).collect();
        let order = change.op("Concat", tokens.iter().cloned()).with([int("axis", 0)]).output("order");
        let count = change.op("Shape", [chosen]).output("count");
        // Sorting a permutation yields its inverse.
        let sorts = [int("axis", 0), int("largest", 0)];
        let [_, back] = change.op("TopK", [order, count.clone()]).with(sorts).outputs(["numbers", "back"]);
        let ones = change.integers(&[2], &[1, 1]);
        let extent = change.op("Concat", [count, ones]).with([int("axis", 0)]).output("extent");
        Self { tokens, back, extent }
    }

    /// By expert, the rows `[.., n, C, K]` of `x` that its tokens have; a column of a matrix `[K, C]` is such a row if the
    /// product has the stack `on_the_left`.
    pub fn rows(&self, change: &mut ChangeBuilder, x: ValueId, on_the_left: bool) -> Vec<ValueRef> {
        let mut rows = change.op("Expand", [x.into(), self.extent.clone()]).output("input");
        if on_the_left {
            rows = change.op("Transpose", [rows]).with([swapped()]).output("rows");
        }
        let rows_of = |(expert, tokens): (usize, &ValueRef)| {
            let gather = change.op("Gather", [rows.clone(), tokens.clone()]).with([int("axis", AXIS)]);
            gather.output(&format!("input.{expert}"))
        };
        self.tokens.iter().enumerate().map(rows_of).collect()
    }

    /// Adds the nodes that yield the product, of what the experts yield.
    pub fn put_back(
        &self,
        change: &mut ChangeBuilder,
        each_yields: Vec<ValueRef>,
        on_the_left: bool,
    ) -> ValueRef {
        let sorted = change.op("Concat", each_yields).with([int("axis", AXIS)]).output("sorted");
        let rows =
            change.op("Gather", [sorted, self.back.clone()]).with([int("axis", AXIS)]).output("output");
        if !on_the_left {
            return rows;
        }
        change.op("Transpose", [rows]).with([swapped()]).output("turned")
    }
}

/// The order in which the last two of three axes are swapped.
fn swapped() -> AttributeProto {
    ints("perm", &[0, 2, 1])
}
