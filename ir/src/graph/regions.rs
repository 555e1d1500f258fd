//! Regions: the subgraphs of control-flow operators, graphs as the one around them.
//!
//! A region reads values of the graph around by their names. Such a value is one of the region's too, with the source
//! [`Source::Capture`], and known to be what it is outside: its type, and its payload where it is constant there.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use super::{Graph, Node, NodeId, Port, Source, Use, ValueId};
use crate::onnx::proto::ValueInfoProto;
use crate::tensor::Tensor;
use crate::types::Type;

/// Names a region of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegionId {
    /// The operator that holds it.
    pub node: NodeId,
    /// Which of the operator's regions, in the order of its attributes.
    pub index: usize,
}

/// What a graph knows of a value that a region in it reads.
struct Known {
    info: Option<ValueInfoProto>,
    ty: Type,
    constant: Option<Tensor>,
}

impl Graph {
    /// The regions of the graph's nodes, in the order of the nodes' ids; those inside other regions are left out.
    pub fn regions(&self) -> impl Iterator<Item = (RegionId, &Graph)> {
        self.nodes().flat_map(|(node, operator)| {
            let regions = operator.regions().iter().enumerate();
            regions.map(move |(index, region)| (RegionId { node, index }, &**region))
        })
    }

    /// The region `id`, if it is in the graph.
    pub fn region(&self, id: RegionId) -> Option<&Graph> {
        Some(self.get_node(id.node)?.regions().get(id.index)?)
    }

    /// The values of the graph around that this region reads, or a region in it; none of a main graph.
    pub fn captures(&self) -> impl Iterator<Item = ValueId> {
        self.values().filter(|(_, value)| value.source == Source::Capture).map(|(id, _)| id)
    }

    /// What the graph is given when it runs: its inputs, and of a region also the captures that are no constants.
    pub fn given(&self) -> impl Iterator<Item = ValueId> {
        let captures = self.captures().filter(|&id| self.constant(id).is_none());
        self.inputs.iter().copied().chain(captures)
    }

    /// The nodes of the graph, and after each those of its regions and of the regions in them.
    pub fn nodes_within(&self) -> impl Iterator<Item = &Node> {
        let within = |(_, node)| {
            let regions = Node::regions(node).iter();
            let inner = regions.flat_map(|region| region.nodes_within());
            std::iter::once(node).chain(Box::new(inner) as Box<dyn Iterator<Item = &Node>>)
        };
        self.nodes().flat_map(within)
    }

    /// Makes a region of a graph: what it reads and does not define is of the graph around it.
    pub(crate) fn into_region(mut self) -> Self {
        for id in (0..self.values.len() as u32).map(ValueId) {
            let is_read = !self.uses(id).is_empty() || self.is_output(id);
            if is_read && self.source(id) == Source::Undefined {
                self.value_mut(id).source = Source::Capture;
            }
        }
        self
    }

    /// Puts another graph in the place of a region; `false` when there is no such region.
    pub(crate) fn replace_region(&mut self, id: RegionId, region: Graph) -> bool {
        if self.region(id).is_none() {
            return false;
        }
        let place = Use { node: id.node, port: Port::Capture };
        for value in std::mem::take(&mut self.node_mut(id.node).captures) {
            self.value_mut(value).uses.remove(place);
        }
        self.node_mut(id.node).regions[id.index] = Arc::new(region);
        let regions = self.node(id.node).regions.clone();
        let captures = self.capture(&regions);
        captures.iter().for_each(|&value| self.value_mut(value).uses.add(place));
        self.node_mut(id.node).captures = captures;
        true
    }

    /// The values that these regions read, each once, made where there are none yet. No new value may take a name of theirs.
    pub(super) fn capture(&mut self, regions: &[Arc<Graph>]) -> Vec<ValueId> {
        let mut seen = HashSet::new();
        for region in regions {
            for (_, value) in region.values().filter(|(_, value)| value.source != Source::Undefined) {
                match value.source {
                    Source::Capture => drop(seen.insert(self.intern(&value.name))),
                    _ => drop(self.inner_names.insert(value.name.clone())),
                }
            }
            self.inner_names.extend(region.inner_names.iter().cloned());
        }
        let mut captures: Vec<ValueId> = seen.into_iter().collect();
        captures.sort();
        captures
    }

    /// Makes a capture of a constant, which goes into the graph around.
    pub(crate) fn capture_constant(&mut self, id: ValueId, tensor: Tensor) {
        self.value_mut(id).source = Source::Capture;
        self.captured.insert(id, tensor);
    }

    /// Lets all regions know what their captures are now.
    pub(crate) fn bind_regions(&mut self) {
        let holders: Vec<NodeId> =
            self.nodes().filter(|(_, node)| !node.regions().is_empty()).map(|(id, _)| id).collect();
        for id in holders {
            for index in 0..self.node(id).regions.len() {
                let region = &self.node(id).regions[index];
                let news: Vec<_> = region.captures().filter_map(|inner| self.news(region, inner)).collect();
                if !news.is_empty() {
                    Arc::make_mut(&mut self.node_mut(id).regions[index]).learn(news);
                }
            }
        }
    }

    /// What this graph knows of a value that `region` reads, if the region knows otherwise.
    fn news(&self, region: &Graph, inner: ValueId) -> Option<(ValueId, Known)> {
        let value = region.value(inner);
        let outer = self.find(&value.name)?;
        let known = Known {
            info: self.value(outer).info.clone(),
            ty: self.ty(outer),
            constant: self.literal(outer).map(Cow::into_owned),
        };
        let same_payload = match (&known.constant, region.captured.get(&inner)) {
            (Some(tensor), Some(old)) => tensor.shares_payload(old),
            (None, None) => true,
            _ => false,
        };
        let same =
            same_payload && known.ty == value.inferred && (known.info == value.info || known.info.is_none());
        (!same).then_some((inner, known))
    }

    fn learn(&mut self, news: Vec<(ValueId, Known)>) {
        for (id, Known { info, ty, constant }) in news {
            match constant {
                Some(tensor) => drop(self.captured.insert(id, tensor)),
                None => drop(self.captured.remove(&id)),
            }
            let value = self.value_mut(id);
            value.inferred = ty;
            value.info = info.or(value.info.take());
        }
        if let Ok(order) = self.order() {
            // What a region computes may have had another type before what it reads changed.
            for &id in &order {
                let outputs: Vec<ValueId> = self.node(id).outputs.iter().flatten().copied().collect();
                outputs.into_iter().for_each(|output| self.value_mut(output).inferred = Type::default());
            }
            let _ = self.infer_types(&order);
        }
        self.bind_regions();
    }
}
