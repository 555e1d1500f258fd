//! What a pass wants changed. A pass never touches the graph: it returns a [`Patch`], and the driver applies it,
//! verifies the result and can show, count or bisect the changes.

use std::collections::HashSet;

use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::model::Model;
use crate::node_names::NodeNames;
use crate::onnx::proto::{FunctionProto, NodeProto};
use crate::op::{Linear, Op};
use crate::tensor::Tensor;

/// A list of changes, applied in order.
#[derive(Debug, Default)]
pub struct Patch {
    /// The changes to the graph.
    pub changes: Vec<Change>,
    /// Domains that nothing calls any more: their functions and imports go, before any is added.
    pub forget: Vec<String>,
    /// Model-local functions to add; one of the same domain, name and overload is replaced.
    pub functions: Vec<FunctionProto>,
    /// Opset versions to import: domain and version.
    pub opsets: Vec<(String, i64)>,
    /// The least IR version that the result needs.
    pub ir_version: Option<i64>,
}

/// One change, which makes sense by itself: it is applied whole.
#[derive(Debug, Default)]
pub struct Change {
    /// What is done and why, for the log: `"lm_head stays in float: ..."`.
    pub why: String,
    /// Constants to add, by name.
    pub initializers: Vec<(String, Tensor)>,
    /// Nodes to take out, before any is added.
    pub remove: Vec<NodeId>,
    /// Nodes to add; the values they name are made as needed.
    pub add: Vec<NewNode>,
    /// Inputs to read another value: node, input port, value name.
    pub rewire: Vec<(NodeId, usize, String)>,
    /// Constants to give another payload, under the name they have.
    pub replace: Vec<(ValueId, Tensor)>,
    /// Values to take out if nothing reads them any more, and with them what only they were computed from.
    pub release: Vec<ValueId>,
}

/// A node to add; inputs and outputs are value names, `None` where an optional one is left out.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// The node's name.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// The values it reads.
    pub inputs: Vec<Option<String>>,
    /// The values it defines.
    pub outputs: Vec<Option<String>>,
    /// Its place in the source file, if it takes the place of a node that came from there.
    pub rank: Option<u32>,
}

/// Why a patch cannot be applied: the pass that made it is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum PatchError {
    /// A node to remove or an input to rewire is not in the graph.
    #[error("change \"{why}\" names a node or an input that is not in the graph")]
    NoSuchNode { why: String },
    /// A value to replace is no constant of the graph.
    #[error("change \"{why}\" replaces what is no constant of the graph")]
    NoSuchConstant { why: String },
    /// A value would have two definitions.
    #[error("change \"{why}\" defines \"{value}\" twice")]
    Redefined { why: String, value: String },
}

impl Patch {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.forget.is_empty()
            && self.functions.is_empty()
            && self.opsets.is_empty()
            && self.ir_version.is_none()
    }

    /// Applies the changes to `model`. An ONNX node that they add gets a number behind its name where another one has it.
    ///
    /// # Errors
    /// When a change names what is not there or defines a value twice; `model` is then half changed and must be
    /// dropped.
    pub fn apply(self, model: &mut Model) -> Result<(), PatchError> {
        model.graph.unlink();
        let mut added = Vec::new();
        for change in self.changes {
            change.apply(model, &mut added)?;
        }
        name_apart(model, &added);
        model.graph.link();
        model.graph.forget_gone();
        let header = &mut model.header;
        header.functions.retain(|function| !self.forget.iter().any(|domain| domain == function.domain()));
        header.opset_import.retain(|import| !self.forget.iter().any(|domain| domain == import.domain()));
        for function in self.functions {
            let same = |f: &FunctionProto| {
                (f.domain(), f.name(), f.overload())
                    == (function.domain(), function.name(), function.overload())
            };
            match header.functions.iter_mut().find(|f| same(f)) {
                Some(old) => *old = function,
                None => header.functions.push(function),
            }
        }
        header.ir_version = header.ir_version.max(self.ir_version);
        if header.ir_version() >= 4 {
            model.graph.unlist_constants();
        }
        for (domain, version) in self.opsets {
            model.import_opset(&domain, version);
        }
        Ok(())
    }
}

/// Gives the ONNX nodes among those `added` names that no other one has.
fn name_apart(model: &mut Model, added: &[NodeId]) {
    let graph = &mut model.graph;
    let is_new: HashSet<NodeId> = added.iter().copied().collect();
    let mut names = NodeNames::default();
    let old = graph.nodes().filter(|(id, node)| matches!(node.op, Op::Onnx(_)) && !is_new.contains(id));
    old.for_each(|(_, node)| names.take(&node.name));
    for &id in added {
        // A later change may have taken the node out again.
        if let Some(Node { name, op: Op::Onnx(_), .. }) = graph.dag().node_weight(id) {
            let name = names.issue(name);
            graph.rename_node(id, name);
        }
    }
}

impl Change {
    /// A change with nothing in it yet.
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), ..Default::default() }
    }

    /// The change that puts the nodes back that the linear layer at `id` stands for, with all that was arranged around them;
    /// `None` when the node is no such layer.
    pub fn restore_origin(graph: &Graph, id: NodeId, why: impl Into<String>) -> Option<Self> {
        let node = graph.node(id);
        let Op::Linear(Linear { origin, .. }) = &node.op else { return None };
        let results = origin.iter().flat_map(Node::outputs).flatten();
        let rearranged = results.filter_map(|&result| graph.producer(result)).filter(|&other| other != id);
        Some(Self {
            remove: [id].into_iter().chain(rearranged).collect(),
            add: origin.iter().map(|node| NewNode::restore(graph, node)).collect(),
            release: node.inputs().iter().flatten().copied().collect(),
            ..Self::new(why)
        })
    }

    fn apply(self, model: &mut Model, added: &mut Vec<NodeId>) -> Result<(), PatchError> {
        let graph = &mut model.graph;
        let redefined =
            |value: &str| PatchError::Redefined { why: self.why.clone(), value: value.to_string() };
        for id in self.remove {
            graph.remove(id).ok_or_else(|| PatchError::NoSuchNode { why: self.why.clone() })?;
        }
        for (name, tensor) in self.initializers {
            let id = graph.intern(&name);
            if !graph.define(id, crate::graph::Source::Initializer) {
                return Err(redefined(&name));
            }
            graph.initializers.insert(id, tensor);
        }
        for (value, tensor) in self.replace {
            match graph.initializers.get_mut(&value) {
                Some(old) => *old = tensor,
                None => return Err(PatchError::NoSuchConstant { why: self.why }),
            }
        }
        for node in self.add {
            let mut ids = |names: Vec<Option<String>>| -> Vec<Option<ValueId>> {
                names.into_iter().map(|name| name.map(|name| graph.intern(&name))).collect()
            };
            let (inputs, outputs) = (ids(node.inputs), ids(node.outputs));
            let id = graph
                .insert(&node.name, node.op, inputs, outputs, node.rank)
                .map_err(|value| redefined(&graph.value(value).name))?;
            added.push(id);
        }
        for (id, port, name) in self.rewire {
            let known = graph.dag().node_weight(id).is_some_and(|node| port < node.inputs().len());
            if !known {
                return Err(PatchError::NoSuchNode { why: self.why });
            }
            let value = graph.intern(&name);
            graph.rewire(id, port, value);
        }
        self.release.into_iter().for_each(|value| graph.release(value));
        Ok(())
    }
}

impl NewNode {
    /// The node that `proto` describes, at place `rank` of the source file.
    pub fn from_proto(mut proto: NodeProto, rank: Option<u32>) -> Self {
        let names = |names: Vec<String>| {
            names.into_iter().map(|name| Some(name).filter(|name| !name.is_empty())).collect()
        };
        let (inputs, outputs) =
            (names(std::mem::take(&mut proto.input)), names(std::mem::take(&mut proto.output)));
        Self { name: proto.name().to_string(), op: Op::Onnx(Box::new(proto)), inputs, outputs, rank }
    }

    /// A node that takes the place of `node` as it is in the graph: same name, operator, connections and rank.
    pub fn restore(graph: &Graph, node: &Node) -> Self {
        let names = |ids: &[Option<ValueId>]| {
            ids.iter().map(|id| id.map(|id| graph.value(id).name.clone())).collect::<Vec<_>>()
        };
        Self {
            name: node.name.clone(),
            op: node.op.clone(),
            inputs: names(node.inputs()),
            outputs: names(node.outputs()),
            rank: node.rank(),
        }
    }
}
