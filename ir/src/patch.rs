//! What a pass wants changed. A pass never touches the graph: it returns a [`Patch`], which a [`PatchBuilder`] writes, and the
//! driver applies it, verifies the result and can show, count or bisect the changes.

mod apply;
mod builder;

pub use builder::{ChangeBuilder, NodeBuilder, PatchBuilder, ValueRef};

use std::sync::Arc;

use crate::graph::{Graph, Node, NodeId, RegionId, ValueId};
use crate::onnx::proto::{FunctionProto, NodeProto, ValueInfoProto};
use crate::onnx::{ModelError, take_regions};
use crate::op::{Linear, Op};
use crate::tensor::Tensor;
use crate::types::Type;

/// A list of changes, applied in order.
#[derive(Debug, Default)]
pub struct Patch {
    /// Inputs to add to the graph, behind those that it has.
    pub inputs: Vec<ValueInfoProto>,
    /// The changes to the graph.
    pub changes: Vec<Change>,
    /// The results that the graph is to have in place of its own, by name; what only those were computed from goes. `None`
    /// leaves them as they are.
    pub outputs: Option<Vec<String>>,
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
    /// Regions to put another graph in the place of.
    pub regions: Vec<(RegionId, Graph)>,
    /// Values to take out if nothing reads them any more, and with them what only they were computed from.
    pub remove_if_unused: Vec<ValueId>,
}

/// A node to add; inputs and outputs are value names, `None` where an optional one is left out.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// The node's name.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// The subgraphs of a control-flow operator, in the order of its attributes.
    pub regions: Vec<Arc<Graph>>,
    /// The values it reads.
    pub inputs: Vec<Option<String>>,
    /// The values it defines.
    pub outputs: Vec<Option<String>>,
    /// Its place in the source file, if it takes the place of a node that came from there.
    pub source_index: Option<u32>,
}

/// Why a patch cannot be applied: the pass that made it is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages name the fields
pub enum PatchError {
    /// A node to remove, an input to rewire or a region to replace is not in the graph.
    #[error("change \"{why}\" names a node, an input or a region that is not in the graph")]
    NoSuchNode { why: String },
    /// A value to replace is no constant of the graph.
    #[error("change \"{why}\" replaces what is no constant of the graph")]
    NoSuchConstant { why: String },
    /// A value would have two definitions.
    #[error("change \"{why}\" defines \"{value}\" twice")]
    Redefined { why: String, value: String },
    /// A value is to be a result that nothing defines once all changes are made.
    #[error("the patch makes \"{value}\" a result of the graph, and nothing defines it")]
    NoSuchResult { value: String },
    /// An input to add has the name of a value that is defined already.
    #[error("the patch adds an input \"{value}\", and the graph has a value of this name")]
    InputRedefined { value: String },
    /// A value is read that nothing defines once all changes are made.
    #[error("change \"{why}\" reads \"{value}\", which nothing defines")]
    Undefined { why: String, value: String },
    /// A value would have another type than the one that it replaces.
    #[error("change \"{why}\" replaces \"{value}\" of type {old} by a value of type {new}")]
    Type { why: String, value: String, old: Box<Type>, new: Box<Type> },
}

impl Patch {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
            && self.changes.is_empty()
            && self.outputs.is_none()
            && self.forget.is_empty()
            && self.functions.is_empty()
            && self.opsets.is_empty()
            && self.ir_version.is_none()
    }

    /// Keeps the first changes only. What the others would have stopped using stays.
    pub fn truncate(&mut self, changes: usize) {
        if changes < self.changes.len() {
            self.changes.truncate(changes);
            self.forget.clear();
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
            remove_if_unused: node.inputs().iter().flatten().copied().collect(),
            ..Self::new(why)
        })
    }
}

impl NewNode {
    /// The node that `proto` describes, at this place of the source file.
    ///
    /// # Errors
    /// When a subgraph in it is no valid graph.
    pub fn from_proto(mut proto: NodeProto, source_index: Option<u32>) -> Result<Self, ModelError> {
        let names = |names: Vec<String>| {
            names.into_iter().map(|name| Some(name).filter(|name| !name.is_empty())).collect()
        };
        let (inputs, outputs) =
            (names(std::mem::take(&mut proto.input)), names(std::mem::take(&mut proto.output)));
        let (name, regions) = (proto.name().to_string(), take_regions(&mut proto)?);
        Ok(Self { name, op: Op::Onnx(Box::new(proto)), regions, inputs, outputs, source_index })
    }

    /// A node that takes the place of `node` as it is in the graph: same name, operator, connections and place.
    pub fn restore(graph: &Graph, node: &Node) -> Self {
        let names = |ids: &[Option<ValueId>]| {
            ids.iter().map(|id| id.map(|id| graph.value(id).name.clone())).collect::<Vec<_>>()
        };
        Self {
            name: node.name.clone(),
            op: node.op.clone(),
            regions: node.regions().to_vec(),
            inputs: names(node.inputs()),
            outputs: names(node.outputs()),
            source_index: node.source_index(),
        }
    }
}
