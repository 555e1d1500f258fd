//! A region as a model of its own, so that every pass works on it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::graph::{Graph, RegionId, Source};
use crate::model::Model;
use crate::patch::{Change, Patch};
use crate::tensor::Tensor;

impl Model {
    /// The region `id` of the graph with the functions and opsets of this model; `None` when there is no such region. It goes
    /// back by [`Patch::replace_region`].
    pub fn region(&self, id: RegionId) -> Option<Model> {
        let graph = &self.graph;
        let mut region = graph.region(id)?.clone();
        let taken = graph.values().map(|(_, value)| &value.name);
        let taken = taken.chain(&graph.inner_names).chain(graph.outer_names.iter());
        let outer: HashSet<String> = taken.filter(|name| !region.is_inside(name)).cloned().collect();
        region.outer_names = Arc::new(outer);
        Some(Model { graph: region, header: self.header.clone(), source_bytes: 0, newer: None })
    }
}

impl Patch {
    /// Puts a region back that [`Model::region`] gave. Constants that were added to it go into the graph of `around`, where all
    /// regions can read them, unless it has one of the name: that is read then. Functions and versions that the region needs go
    /// into the model. Where there is no region `id`, the patch is refused when it is applied.
    pub fn replace_region(around: &Model, id: RegionId, region: Model, why: impl Into<String>) -> Self {
        let Model { graph: mut region, header, .. } = region;
        region.outer_names = Arc::default();
        let known = |name: &str| {
            let old = around.graph.region(id).and_then(|old| Some(old.source(old.find(name)?)));
            matches!(old, Some(Source::Initializer | Source::Input))
        };
        let mut initializers = region.hoist(known);
        let graph = &around.graph;
        initializers.retain(|(name, _)| graph.find(name).is_none_or(|value| graph.is_gone(value)));
        let reads = graph.get_node(id.node).into_iter().flat_map(|node| node.reads()).collect();
        let imports = header.opset_import.iter();
        Self {
            opsets: imports.map(|import| (import.domain().to_string(), import.version())).collect(),
            ir_version: header.ir_version,
            functions: header.functions,
            changes: vec![Change {
                initializers,
                regions: vec![(id, region)],
                remove_if_unused: reads,
                ..Change::new(why)
            }],
            ..Self::default()
        }
    }
}

impl Graph {
    /// Whether the name is one of the region's own, or of one inside it.
    fn is_inside(&self, name: &str) -> bool {
        let own = self.find(name).map(|value| self.source(value));
        matches!(own, Some(Source::Input | Source::Initializer | Source::Node { .. }))
            || self.inner_names.contains(name)
    }

    /// Takes the constants out, but those that are `known`, and reads them from around instead.
    fn hoist(&mut self, known: impl Fn(&str) -> bool) -> Vec<(String, Tensor)> {
        let mut hoisted = Vec::new();
        for (id, tensor) in std::mem::take(&mut self.initializers) {
            let name = self.value(id).name.clone();
            if known(&name) || self.source(id) != Source::Initializer {
                self.initializers.insert(id, tensor);
                continue;
            }
            self.capture_constant(id, tensor.clone());
            hoisted.push((name, tensor));
        }
        hoisted
    }
}
