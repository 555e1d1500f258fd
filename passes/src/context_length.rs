//! How many tokens a language model takes in a row.

use std::collections::HashSet;

use zqc_ir::{Graph, Model, Node, Op, ValueId};
use zqc_runtime::names_positions;

use crate::constant_view::ConstantView;
use crate::vocabulary::Table;

/// Inputs that are tables of positions, by domain and operator.
const TABLES: [(&str, &str, usize); 4] = [
    ("com.microsoft", "EmbedLayerNormalization", 3),
    ("com.microsoft", "GroupQueryAttention", 7),
    ("com.microsoft", "RotaryEmbedding", 2),
    ("", "RotaryEmbedding", 1),
];
/// Smaller tables are those of segments.
const FEWEST: usize = 32;
/// Positions of some models begin at 2, with as many rows more; lengths that people train are multiples of this.
const MULTIPLE: usize = 16;

/// The most tokens in a row that the tables of positions of the model have rows for, by its input `tokens`; `None` where it has
/// no such table.
pub fn context_length(model: &Model, tokens: &str) -> Option<usize> {
    let graph = &model.graph;
    let tokens = graph.find(tokens);
    let looked_up: Vec<Table> = graph.nodes().filter_map(|(_, node)| Table::of(graph, node)).collect();
    let (words, others): (Vec<&Table>, Vec<&Table>) =
        looked_up.iter().partition(|table| table.ids.is_some() && table.ids == tokens);
    // Positions are added to words, so their vectors are as long. What other inputs look up, as languages or the tokens of a
    // decoder, has a row for each kind and not for each token.
    let widths: HashSet<usize> = words.iter().map(|table| table.columns).collect();
    let is_kind = |ids: ValueId| !names_positions(&graph.value(ids).name);
    let added = others
        .iter()
        .filter(|table| widths.contains(&table.columns) && !table.ids.is_some_and(is_kind))
        .filter(|table| words.iter().all(|word| word.root != table.root))
        .map(|table| table.rows);
    let rows = added.chain(graph.nodes().filter_map(|(_, node)| rows(graph, node)));
    rows.filter(|&rows| rows >= FEWEST).min().map(|rows| rows / MULTIPLE * MULTIPLE)
}

/// The rows of the table of positions that an operator of its own reads.
fn rows(graph: &Graph, node: &Node) -> Option<usize> {
    let Op::Onnx(proto) = &node.op else { return None };
    let domain = if proto.domain() == "ai.onnx" { "" } else { proto.domain() };
    let known = |&&(of, op_type, _): &&(&str, &str, usize)| (of, op_type) == (domain, proto.op_type());
    let (_, _, port) = TABLES.iter().find(known)?;
    let [rows, _] = ConstantView::of(graph, node.input(*port)?)?.dims[..] else { return None };
    usize::try_from(rows).ok()
}
