//! Which linear layers are quantized.

mod lm_head;

use regex::Regex;
use zqc_ir::op::{Linear, port};
use zqc_ir::{Change, Graph, Model, NewNode, NodeId, Op, Patch};

use crate::pass::{Observer, Pass, PassError};
use lm_head::Embeddings;

/// Smaller weights save nothing.
const MIN_ELEMENTS: usize = 1024;
/// With fewer input features there is nothing to average the rounding errors over.
const MIN_K: usize = 16;

/// Turns the linear layers that are to stay in float back into the nodes that they were.
///
/// A layer stays in float when `only` is given and none of it matches, when one of `keep` matches, when it is the
/// language-model head (unless `only` names it), or when it is small. [`Observer::layer_kept`] hears the reason. The
/// expressions are searched for in the layer's path, its node's name and its weight's name.
#[derive(Debug, Clone, Default)]
pub struct Select {
    /// The layers that stay in float.
    pub keep: Vec<Regex>,
    /// The layers that are quantized; empty for all.
    pub only: Vec<Regex>,
}

impl Pass for Select {
    fn name(&self) -> &'static str {
        "select"
    }

    fn run(&self, model: &Model, observer: &mut dyn Observer) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let layers: Vec<Layer> = graph.order()?.into_iter().filter_map(|id| Layer::new(graph, id)).collect();
        self.report_unmatched(&layers, observer);
        let embeddings = Embeddings::find(graph);
        let mut patch = Patch::default();
        for layer in &layers {
            let Some(reason) = self.reason_to_keep(layer, &embeddings) else { continue };
            let Linear { layer: path, origin, .. } = layer.linear;
            observer.layer_kept(path, &reason);
            patch.changes.push(Change {
                why: format!("{path} stays in float: {reason}"),
                remove: vec![layer.id],
                add: origin.iter().map(|node| NewNode::restore(graph, node)).collect(),
                release: graph.node(layer.id).inputs().iter().flatten().copied().collect(),
                ..Change::default()
            });
        }
        Ok(patch)
    }
}

impl Select {
    fn reason_to_keep(&self, layer: &Layer, embeddings: &Embeddings) -> Option<String> {
        let &Linear { k, n, .. } = layer.linear;
        if !self.only.is_empty() && !self.only.iter().any(|regex| layer.is_named_by(regex)) {
            return Some("not named by --only".to_string());
        }
        if let Some(regex) = self.keep.iter().find(|regex| layer.is_named_by(regex)) {
            return Some(format!("named by --keep {regex}"));
        }
        if self.only.is_empty()
            && let Some(reason) = embeddings.lm_head(layer.id, n)
        {
            return Some(format!("lm_head: {reason}"));
        }
        if k.saturating_mul(n) < MIN_ELEMENTS {
            return Some(format!("too small: {k} x {n} weights, fewer than {MIN_ELEMENTS}"));
        }
        (k < MIN_K).then(|| format!("too small: {k} input features, fewer than {MIN_K}"))
    }

    fn report_unmatched(&self, layers: &[Layer], observer: &mut dyn Observer) {
        for (option, expressions) in [("--keep", &self.keep), ("--only", &self.only)] {
            for regex in expressions {
                if !layers.iter().any(|layer| layer.is_named_by(regex)) {
                    observer.unmatched(option, regex.as_str());
                }
            }
        }
    }
}

/// A layer, and the names by which a user may mean it.
struct Layer<'g> {
    id: NodeId,
    linear: &'g Linear,
    names: [&'g str; 3],
}

impl<'g> Layer<'g> {
    fn new(graph: &'g Graph, id: NodeId) -> Option<Self> {
        let node = graph.node(id);
        let Op::Linear(linear) = &node.op else { return None };
        let weight = node.input(port::WEIGHT).map_or("", |weight| &graph.value(weight).name);
        Some(Self { id, linear, names: [&linear.layer, &node.name, weight] })
    }

    fn is_named_by(&self, regex: &Regex) -> bool {
        self.names.iter().any(|name| !name.is_empty() && regex.is_match(name))
    }
}
