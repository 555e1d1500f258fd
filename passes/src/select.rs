//! Which linear layers are quantized.

mod part;

use std::collections::HashSet;

use zqc_ir::op::{Linear, port};
use zqc_ir::{Change, FreshNames, Graph, Model, NodeId, Op, Patch, ValueId};

use crate::attention::PackedAttention;
use crate::einsum::EinsumProduct;
use crate::expert_stack::ExpertStack;
use crate::fused::FusedLayer;
use crate::layer_path::LayerPaths;
use crate::layer_pattern::LayerPattern;
use crate::lm_head::Heads;
use crate::mixture::{Experts, Mixture};
use crate::pass::{Context, Observer, Pass, PassError, Scope};
use crate::token_table::TokenTable;

/// Smaller weights save nothing.
pub(crate) const MIN_ELEMENTS: usize = 1024;
/// With fewer input features there is nothing to average the rounding errors over.
const MIN_K: usize = 16;

/// Turns the linear layers that are to stay in float back into the nodes that they were.
///
/// A layer stays in float when `only` is given and none of it matches, when one of `keep` matches, when it is the
/// language-model head and `head` is not set (unless `only` names it), or when it is small. A head that is tied to the table of the
/// tokens and the table are chosen as one, by the names of both; nothing else may read the table. [`Observer::layer_kept`] hears the reason, of `Einsum` and stacks of
/// experts too. Where its weight is a part of a constant and other parts are quantized, it reads the part alone, so that the
/// rest goes. The expressions are searched for in the layer's path, its node's name and its weight's name.
#[derive(Debug, Clone, Default)]
pub struct Select {
    /// The layers that stay in float.
    pub keep: Vec<LayerPattern>,
    /// The layers that are quantized; empty for all.
    pub only: Vec<LayerPattern>,
    /// Whether the head and the table of the tokens are quantized.
    pub head: bool,
}

impl Pass for Select {
    fn name(&self) -> &'static str {
        "select"
    }

    fn run(&self, model: &Model, context: &mut Context) -> Result<Patch, PassError> {
        match context.scope {
            Scope::Main => self.choose(model, context.observer),
            // The tokens' table and the head are those of the model.
            Scope::Subgraph => Select { head: false, ..self.clone() }.choose(model, context.observer),
        }
    }
}

impl Select {
    fn choose(&self, model: &Model, observer: &mut dyn Observer) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let order = graph.order()?;
        let layers: Vec<Layer> = order.iter().filter_map(|&id| Layer::new(graph, id)).collect();
        let mut paths = LayerPaths::default();
        let others = order.iter().flat_map(|&id| Unexpanded::all(model, id, self, &mut paths));
        let others: Vec<Unexpanded> = others.collect();
        let tables = if self.head { TokenTable::all(graph) } else { Vec::new() };
        self.report_unmatched(graph, &layers, &others, &tables, observer);
        for other in &others {
            let reason = self.reason_to_keep(&other.names(), other.features);
            if let Some(reason) = reason.or_else(|| other.reason.clone()) {
                observer.layer_kept(&other.path, &reason);
            }
        }
        let kept_tables: Vec<_> =
            tables.iter().map(|table| self.reason_to_keep_table(graph, table)).collect();
        for (table, reason) in tables.iter().zip(&kept_tables) {
            reason.iter().for_each(|reason| observer.layer_kept(&table.path, reason));
        }
        let heads = Heads::find(graph);
        let reason = |layer: &Layer| {
            if let Some(at) = tables.iter().position(|table| table.layers.contains(&layer.id)) {
                return kept_tables[at].clone();
            }
            let &Linear { k, n, .. } = layer.linear;
            let stays = |_: &String| if self.head { heads.is_tied(layer.id) } else { self.only.is_empty() };
            let lm_head = || heads.reason(layer.id, k, n).filter(stays);
            let reason = self.reason_by_name(&layer.names);
            let reason = reason.or_else(|| Some(format!("lm_head: {}", lm_head()?)));
            reason.or_else(|| too_small(k, n))
        };
        let reasons: Vec<Option<String>> = layers.iter().map(reason).collect();
        let quantized = layers.iter().zip(&reasons).filter(|(_, reason)| reason.is_none());
        let quantized: HashSet<ValueId> =
            quantized.filter_map(|(layer, _)| part::stack(graph, layer.id)).collect();
        let names = FreshNames::new(graph);
        let mut patch = Patch::default();
        for (layer, reason) in layers.iter().zip(reasons) {
            let (Some(reason), path) = (reason, &layer.linear.layer) else { continue };
            observer.layer_kept(path, &reason);
            let why = format!("{path} stays in float: {reason}");
            if let Some(mut change) = Change::restore_origin(graph, layer.id, why) {
                part::detach(graph, &names, layer.id, &quantized, &mut change);
                patch.changes.push(change);
            }
        }
        Ok(patch)
    }

    /// Why a layer of these names and features, K and N, stays in float wherever it stands; `None` if it need not.
    pub(crate) fn reason_to_keep(&self, names: &[&str], [k, n]: [usize; 2]) -> Option<String> {
        self.reason_by_name(names).or_else(|| too_small(k, n))
    }

    /// Why the table of the tokens, and the head that is tied to it, stay in float; `None` if they need not.
    pub(crate) fn reason_to_keep_table(&self, graph: &Graph, table: &TokenTable) -> Option<String> {
        let layers = table.layers.iter().filter_map(|&id| Layer::new(graph, id));
        let names: Vec<&str> = layers.flat_map(|layer| layer.names).chain(table.names(graph)).collect();
        let obstacle = || {
            let name = &graph.value(table.root).name;
            Some(format!("embedding table \"{name}\": {}", table.obstacle.as_ref()?))
        };
        let reason = self.reason_by_name(&names).or_else(obstacle);
        reason.or_else(|| too_small(table.columns, table.rows))
    }

    fn reason_by_name(&self, names: &[&str]) -> Option<String> {
        if !self.only.is_empty() && !self.only.iter().any(|pattern| pattern.matches(names)) {
            return Some("not named by --only".to_string());
        }
        let pattern = self.keep.iter().find(|pattern| pattern.matches(names))?;
        Some(format!("named by --keep {pattern}"))
    }

    fn report_unmatched(
        &self,
        graph: &Graph,
        layers: &[Layer],
        others: &[Unexpanded],
        tables: &[TokenTable],
        observer: &mut dyn Observer,
    ) {
        for (option, expressions) in [("--keep", &self.keep), ("--only", &self.only)] {
            for pattern in expressions {
                let named = layers.iter().any(|layer| pattern.matches(&layer.names))
                    || others.iter().any(|other| pattern.matches(&other.names()))
                    || tables.iter().any(|table| pattern.matches(&table.names(graph)));
                if !named {
                    observer.unmatched(option, pattern.as_str());
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
}

/// A stack of experts, an `Attention`, a `MoE` or a layer fused with its activation that nobody took apart, or an `Einsum` that nobody wrote as a product, with its names
/// as a [`Layer`] has them.
struct Unexpanded {
    path: String,
    names: Vec<String>,
    features: [usize; 2],
    /// Why it stays in float where none of these says so.
    reason: Option<String>,
}

impl Unexpanded {
    /// Those in the node, the stacks of a `MoE` each by itself.
    fn all(model: &Model, id: NodeId, select: &Select, paths: &mut LayerPaths) -> Vec<Self> {
        let graph = &model.graph;
        let node = graph.node(id);
        let new = |path: String, root, features, reason| {
            let names = vec![path.clone(), node.name.clone(), graph.value(root).name.clone()];
            Self { path, names, features, reason }
        };
        if let Some(Ok(mixture)) = Mixture::of(model, id) {
            let path = paths.issue(graph, node, mixture.up[0].root);
            let kept = mixture.kept(graph, select, &path, &node.name);
            let reason = kept
                .map(|kept| format!("its MoE stays one operator, as {path}.{} stays in float", kept.name));
            let stack = |experts: &Experts| {
                let path = format!("{path}.{}", experts.name);
                let mut stack = new(path, experts.root, [experts.k, experts.n], reason.clone());
                stack.names.extend((0..experts.experts).map(|expert| format!("{}.{expert}", stack.path)));
                stack
            };
            return mixture.layers().map(stack).collect();
        }
        let stack = ExpertStack::of(model, id).map(|stack| (stack.root, stack.features()));
        let einsum =
            || EinsumProduct::of(graph, id).and_then(|einsum| Some((einsum.root, einsum.features()?)));
        let attention = || PackedAttention::of(graph, id)?.ok().map(|it| (it.root, it.features()));
        let fused = || FusedLayer::of(graph, id)?.ok().map(|it| (it.root, it.features));
        let found = stack.or_else(einsum).or_else(attention).or_else(fused);
        let whole = |(root, features)| new(paths.issue(graph, node, root), root, features, None);
        found.map(whole).into_iter().collect()
    }

    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }
}

/// Why a layer of K input and N output features is not worth it; `None` if it is.
pub(crate) fn too_small(k: usize, n: usize) -> Option<String> {
    if k.saturating_mul(n) < MIN_ELEMENTS {
        return Some(format!("too small: {k} x {n} weights, fewer than {MIN_ELEMENTS}"));
    }
    (k < MIN_K).then(|| format!("too small: {k} input features, fewer than {MIN_K}"))
}
