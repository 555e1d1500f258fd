//! Which linear layer writes the logits of a language model.

use std::collections::{HashMap, HashSet};

use zqc_ir::{Graph, NodeId, Op, ValueId};
use zqc_runtime::{EMBEDDINGS, InputSpec, names_cache, token_inputs};

use crate::constant_view::root;
use crate::vocabulary::Table;

/// How the names of outputs end that hold them; the branches of a merged model may have more in front.
const LOGITS: &str = "logits";

/// Operators that read how large a value is, and not the value.
const READ_SIZES: [&str; 2] = ["Shape", "Size"];

/// What tells the head of a language model from its other layers.
///
/// A tied head reads an embedding table itself. An untied one, or one that reads a transposed copy as exporters leave it that fold
/// constants, is a layer from which results come through no other layer, and
///
/// * it has as many outputs as there are rows in the table of the tokens, and the result is no cache; or
/// * the name of the result ends with `logits`, and it is `[batch, tokens, ..]`, with more of them for a token than the layer has inputs, in a decoder:
///   a model that keeps caches, or is fed the embeddings of its tokens. There the table may be missing, or of another size.
///
/// What a classifier calls logits is one row for a sample, or has few entries, and its layer is quantized like any other.
pub(crate) struct Heads<'g> {
    graph: &'g Graph,
    /// Constants whose rows are looked up.
    tables: HashSet<ValueId>,
    /// Those that tokens are looked up in, by their number of rows.
    vocabularies: HashMap<usize, ValueId>,
    /// The layers that write a result that is no cache.
    last: HashSet<NodeId>,
    /// Those that write the logits of a decoder.
    logits: HashSet<NodeId>,
}

impl<'g> Heads<'g> {
    pub(crate) fn find(graph: &'g Graph) -> Self {
        let tokens = tokens(graph);
        let (mut tables, mut vocabularies) = (HashSet::new(), HashMap::new());
        for table in graph.nodes().filter_map(|(_, node)| Table::of(graph, node)) {
            tables.insert(table.root);
            if table.ids.is_some_and(|ids| tokens.contains(&ids)) {
                vocabularies.insert(table.rows, table.root);
            }
        }
        let name = |id: ValueId| graph.value(id).name.as_str();
        let results = graph.outputs().iter().copied().filter(|&id| !names_cache(name(id)));
        let logits = graph.outputs().iter().copied().filter(|&id| name(id).ends_with(LOGITS));
        let logits =
            logits.filter(|&id| is_decoder(graph) && graph.ty(id).rank().is_none_or(|rank| rank == 3));
        Self {
            graph,
            tables,
            vocabularies,
            last: last_layers(graph, results),
            logits: last_layers(graph, logits),
        }
    }

    /// Whether the linear layer `id` reads an embedding table.
    pub(crate) fn is_tied(&self, id: NodeId) -> bool {
        let Op::Linear(linear) = &self.graph.node(id).op else { return false };
        let weight = linear.origin.first().and_then(|node| node.input(1));
        weight.is_some_and(|weight| self.tables.contains(&root(self.graph, weight)))
    }

    /// Why the linear layer `id` of `k` input and `n` output features is the language-model head; `None` if it is not.
    pub(crate) fn reason(&self, id: NodeId, k: usize, n: usize) -> Option<String> {
        let Op::Linear(linear) = &self.graph.node(id).op else { return None };
        let weight = root(self.graph, linear.origin.first()?.input(1)?);
        let name = |value: ValueId| &self.graph.value(value).name;
        if self.tables.contains(&weight) {
            return Some(format!("tied to the embedding table \"{}\"", name(weight)));
        }
        if let Some(&table) = self.vocabularies.get(&n).filter(|_| self.last.contains(&id)) {
            let table = name(table);
            return Some(format!("writes the logits, one for each row of the embedding table \"{table}\""));
        }
        (n > k && self.logits.contains(&id)).then(|| format!("writes the decoder's logits, {n} for a token"))
    }
}

/// The inputs that take token ids.
pub(crate) fn tokens(graph: &Graph) -> Vec<ValueId> {
    let spec = |id: ValueId| InputSpec::of_value(graph, id).ok();
    let specs: Vec<InputSpec> = graph.given().filter_map(spec).collect();
    token_inputs(&specs).into_iter().filter_map(|spec| graph.find(&spec.name)).collect()
}

/// Whether the graph keeps caches, or is fed embeddings.
fn is_decoder(graph: &Graph) -> bool {
    let name = |id: &ValueId| graph.value(*id).name.as_str();
    graph.outputs().iter().any(|id| names_cache(name(id))) || graph.given().any(|id| name(&id) == EMBEDDINGS)
}

/// The layers from which `results` are computed through no other layer; what only a size depends on is not computed from it.
fn last_layers(graph: &Graph, results: impl Iterator<Item = ValueId>) -> HashSet<NodeId> {
    let mut open: Vec<NodeId> = results.filter_map(|result| graph.producer(result)).collect();
    let (mut seen, mut layers) = (HashSet::new(), HashSet::new());
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = graph.node(id);
        if matches!(node.op, Op::Linear(_)) {
            layers.insert(id);
        } else if !READ_SIZES.iter().any(|op_type| node.op.as_standard(op_type).is_some()) {
            open.extend(node.reads().filter_map(|value| graph.producer(value)));
        }
    }
    layers
}
