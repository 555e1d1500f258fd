//! How many tokens a language model knows.

use std::borrow::Cow;

use zqc_ir::body::{Body, places};
use zqc_ir::graph::Source;
use zqc_ir::{Graph, Model, ValueId};

use crate::constant_view::root;

/// Operators that change the type or the shape of token ids and nothing else.
const KEEPS_IDS: [&str; 6] = ["Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"];

/// The input of the graph that `ids` come from, up to their type and shape.
pub(crate) fn ids_input(graph: &Graph, mut ids: ValueId) -> Option<ValueId> {
    while let Some(producer) = graph.producer(ids) {
        let node = graph.node(producer);
        let passed_on = KEEPS_IDS.iter().any(|op_type| node.op.as_standard(op_type).is_some());
        ids = node.input(0).filter(|_| passed_on)?;
    }
    (graph.source(ids) == Source::Input).then_some(ids)
}

/// The number of tokens that the model's embedding knows: the rows of the constant table in which a `Gather` looks up
/// the graph's input `tokens`, there or in the body of a control-flow operator; a caller may put another table in its place.
/// `None` when there is no such table.
pub fn vocabulary(model: &Model, tokens: &str) -> Option<usize> {
    let graph = &model.graph;
    let input = graph.find(tokens)?;
    let here = graph.nodes().find_map(|(_, node)| {
        node.op.as_standard("Gather")?;
        let (table, ids) = (root(graph, node.input(0)?), node.input(1)?);
        let table = graph.literal(table).or_else(|| graph.default_of(table).map(Cow::Borrowed));
        let [rows, _] = table?.matrix_dims()?;
        (ids_input(graph, ids) == Some(input)).then_some(rows)
    });
    // A body has what it reads from outside as inputs of the same names.
    let body = |place| vocabulary(&Body::take(model, place).ok()??.model, tokens);
    here.or_else(|| places(graph).into_iter().find_map(body))
}
