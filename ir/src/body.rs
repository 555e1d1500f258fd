//! The bodies of control-flow operators (`If`, `Loop`, `Scan`) as models of their own, so that every pass works on them.

use std::collections::HashSet;

use crate::graph::{Graph, NodeId, free_names};
use crate::model::Model;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto};
use crate::onnx::{ModelError, WriteError, from_proto, to_proto};
use crate::op::Op;
use crate::patch::{Change, NewNode, Patch};
use crate::tensor::Tensor;

/// A body, taken out of its operator.
#[derive(Debug, Clone)]
pub struct Body {
    /// What the body computes. It has the functions and opsets of the model around it; what it reads from there is an
    /// input after its own, or an initializer where it is constant there.
    pub model: Model,
    place: Place,
    /// The names of what it reads from outside.
    captured: HashSet<String>,
}

/// Where a body is: the operator, and which of its bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The operator.
    pub node: NodeId,
    /// Which of the operator's bodies, in the order of its attributes.
    pub index: usize,
}

/// The bodies in a graph, those inside other bodies left out, in the order of the graph's nodes.
pub fn places(graph: &Graph) -> Vec<Place> {
    let of = |(node, op): (NodeId, &Op)| match op {
        Op::Onnx(proto) => (0..proto.bodies().count()).map(|index| Place { node, index }).collect(),
        _ => Vec::new(),
    };
    graph.nodes().flat_map(|(id, node)| of((id, &node.op))).collect()
}

impl Body {
    /// The body at `place` of `model`; `None` when there is none.
    ///
    /// # Errors
    /// When the body is no valid graph.
    pub fn take(model: &Model, place: Place) -> Result<Option<Self>, ModelError> {
        let graph = &model.graph;
        let Op::Onnx(node) = &graph.node(place.node).op else { return Ok(None) };
        let Some(body) = node.bodies().nth(place.index) else { return Ok(None) };
        let (mut names, mut inner) = (Vec::new(), HashSet::new());
        free_names(body, &mut names, &mut inner);
        let mut proto = body.clone();
        let mut captured = HashSet::new();
        for name in names {
            let Some(value) = graph.find(&name).filter(|_| captured.insert(name.clone())) else { continue };
            match graph.literal(value) {
                Some(tensor) => proto.initializer.push(tensor.to_proto(&name)),
                None => {
                    let unknown = || ValueInfoProto { name: Some(name.clone()), ..Default::default() };
                    proto.input.push(graph.value(value).info.clone().unwrap_or_else(unknown));
                }
            }
        }
        let mut model = from_proto(ModelProto { graph: Some(proto), ..model.header.clone() })?;
        let taken = graph.values().map(|(_, value)| &value.name).chain(&graph.inner_names);
        model.graph.inner_names.extend(taken.filter(|name| !inner.contains(*name)).cloned());
        Ok(Some(Self { model, place, captured }))
    }

    /// Puts the body, lowered to ONNX, back into `around`. New constants go where all bodies can read them; functions and
    /// versions that it needs go into the model.
    ///
    /// # Errors
    /// When the body is not lowered.
    pub fn put_back(self, around: &Model, why: String) -> Result<Patch, WriteError> {
        let graph = &around.graph;
        let header = self.model.header.clone();
        let mut body = to_proto(&self.model)?.graph.unwrap_or_default();
        body.input.retain(|input| !self.captured.contains(input.name()));
        let mut node = NewNode::restore(graph, graph.node(self.place.node));
        let Op::Onnx(proto) = &mut node.op else { return Ok(Patch::default()) };
        let Some(slot) = body_mut(proto, self.place.index) else { return Ok(Patch::default()) };
        let known: HashSet<&str> = slot.initializer.iter().map(|tensor| tensor.name()).collect();
        let (kept, new): (Vec<_>, Vec<_>) = std::mem::take(&mut body.initializer)
            .into_iter()
            .partition(|tensor| known.contains(tensor.name()));
        body.initializer = kept;
        let new = new.into_iter().filter(|tensor| !self.captured.contains(tensor.name()));
        let unknown = |name: &str| graph.find(name).is_none_or(|value| graph.is_gone(value));
        let hoisted = new.filter(|tensor| unknown(tensor.name()));
        let initializers =
            hoisted.map(|tensor| (tensor.name().to_string(), Tensor::from_proto(tensor))).collect();
        *slot = body;
        let reads = graph.node(self.place.node).reads().collect();
        let change = Change {
            initializers,
            remove: vec![self.place.node],
            add: vec![node],
            release: reads,
            ..Change::new(why)
        };
        let imports = header.opset_import.iter();
        Ok(Patch {
            changes: vec![change],
            opsets: imports.map(|import| (import.domain().to_string(), import.version())).collect(),
            functions: header.functions,
            ir_version: header.ir_version,
            ..Patch::default()
        })
    }
}

fn body_mut(node: &mut NodeProto, index: usize) -> Option<&mut GraphProto> {
    let bodies =
        node.attribute.iter_mut().flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs));
    bodies.into_iter().nth(index)
}
