//! Which linear layer writes the logits of a language model.

use std::collections::{HashMap, HashSet};

use zqc_ir::tensor::DataType;
use zqc_ir::{Graph, NodeId, Op, ValueId};

use crate::constant_view::root;
use crate::vocabulary::ids_input;

/// The embedding tables of a graph: constants that a `Gather` reads.
pub(super) struct Embeddings<'g> {
    graph: &'g Graph,
    tables: HashSet<ValueId>,
    /// The tables that ids from outside are looked up in, by their number of rows.
    vocabularies: HashMap<usize, ValueId>,
}

impl<'g> Embeddings<'g> {
    pub(super) fn find(graph: &'g Graph) -> Self {
        let mut found = Self { graph, tables: HashSet::new(), vocabularies: HashMap::new() };
        for (_, node) in graph.nodes() {
            let (Some(_), Some(data), Some(ids)) =
                (node.op.as_standard("Gather"), node.input(0), node.input(1))
            else {
                continue;
            };
            let table = root(graph, data);
            let Some([rows, _]) = graph.literal(table).and_then(|tensor| tensor.matrix_dims()) else {
                continue;
            };
            found.tables.insert(table);
            let integer = |ids| matches!(graph.value(ids).dtype(), Some(DataType::Int64 | DataType::Int32));
            if ids_input(graph, ids).is_some_and(integer) {
                found.vocabularies.insert(rows, table);
            }
        }
        found
    }

    /// Why the linear layer `id` with `n` output features is the language-model head; `None` if it is not.
    ///
    /// A tied head reads the embedding table itself. Exporters that fold constants leave a transposed copy, and an
    /// untied head has its own weight: these have as many outputs as there are tokens, and no layer comes after.
    pub(super) fn lm_head(&self, id: NodeId, n: usize) -> Option<String> {
        let Op::Linear(linear) = &self.graph.node(id).op else { return None };
        let weight = root(self.graph, linear.origin.first()?.input(1)?);
        let name = |value: ValueId| &self.graph.value(value).name;
        if self.tables.contains(&weight) {
            return Some(format!("tied to the embedding table \"{}\"", name(weight)));
        }
        let table = *self.vocabularies.get(&n)?;
        is_last_layer(self.graph, id).then(|| {
            format!("writes the logits, one for each row of the embedding table \"{}\"", name(table))
        })
    }
}

/// Whether a result of the graph depends on `layer` through no other linear layer.
fn is_last_layer(graph: &Graph, layer: NodeId) -> bool {
    let mut seen = HashSet::from([layer]);
    let mut open = vec![layer];
    while let Some(id) = open.pop() {
        if graph.node(id).outputs().iter().flatten().any(|&value| graph.is_output(value)) {
            return true;
        }
        let linear = |id: NodeId| matches!(graph.node(id).op, Op::Linear(_));
        open.extend(graph.successors(id).filter(|&next| !linear(next) && seen.insert(next)));
    }
    false
}
