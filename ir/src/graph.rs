//! The dataflow graph: nodes are operators, edges carry values.
//!
//! Connectivity is stored once in each direction: a node has the values that it reads and defines, a value has the node that
//! defines it and the places that read it. Petgraph's algorithms run on `&Graph` by its visit traits.

mod edit;
mod order;
mod regions;
mod visit;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;
use petgraph::Direction;
use petgraph::graph::NodeIndex;

pub use order::Cycle;
pub use regions::RegionId;

use crate::onnx::proto::{GraphProto, ValueInfoProto};
use crate::op::Op;
use crate::tensor::Tensor;
use crate::types::Type;
use crate::uses::Uses;

/// Names a node of a [`Graph`]; stays valid while other nodes come and go.
pub type NodeId = NodeIndex<u32>;

/// Names a value of a [`Graph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nothing defines it: the graph is broken, or being rewired.
    Undefined,
    /// An input of the graph.
    Input,
    /// A constant of the graph.
    Initializer,
    /// The graph around, which is the one of the region's operator.
    Capture,
    /// A result of a node.
    Node {
        /// The node.
        node: NodeId,
        /// Which of its outputs.
        port: usize,
    },
}

/// How a node reads a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Port {
    /// As its n-th input.
    Input(usize),
    /// In a region of the node.
    Capture,
}

/// A place where a value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Use {
    /// The reading node.
    pub node: NodeId,
    /// How it reads.
    pub port: Port,
}

/// A value of the graph: defined once, read anywhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Its name, unique in the graph.
    pub name: String,
    /// Element type and symbolic shape, where the file declares them.
    pub info: Option<ValueInfoProto>,
    /// The type that follows from the node which defines the value.
    inferred: Type,
    source: Source,
    uses: Uses,
}

/// An operator and its connections.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The node's name; may be empty, and need not be unique in a graph that was read.
    pub name: String,
    /// What it does.
    pub op: Op,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<Option<ValueId>>,
    regions: Vec<Arc<Graph>>,
    captures: Vec<ValueId>,
    /// Place in the source file; `None` for nodes that a pass made, which are written before their first reader.
    source_index: Option<u32>,
}

impl Node {
    /// The values read, by port; `None` where an optional input is left out.
    pub fn inputs(&self) -> &[Option<ValueId>] {
        &self.inputs
    }

    /// The value at input `port`, if there is one.
    pub fn input(&self, port: usize) -> Option<ValueId> {
        self.inputs.get(port).copied().flatten()
    }

    /// The values defined, by port; `None` where an optional output is left out.
    pub fn outputs(&self) -> &[Option<ValueId>] {
        &self.outputs
    }

    /// The value at output `port`, if there is one.
    pub fn output(&self, port: usize) -> Option<ValueId> {
        self.outputs.get(port).copied().flatten()
    }

    /// The value that the node defines; `None` where it has several outputs, as no valid node of most operators has.
    pub fn sole_output(&self) -> Option<ValueId> {
        if let &[output] = self.outputs() { output } else { None }
    }

    /// The subgraphs of a control-flow operator, in the order of its attributes.
    pub fn regions(&self) -> &[Arc<Graph>] {
        &self.regions
    }

    /// The values that the node's regions read.
    pub fn captures(&self) -> &[ValueId] {
        &self.captures
    }

    /// Every value read, as input or in a region.
    pub fn reads(&self) -> impl Iterator<Item = ValueId> + Clone {
        self.inputs.iter().flatten().chain(&self.captures).copied()
    }

    /// Its place in the source file, if it came from one.
    pub fn source_index(&self) -> Option<u32> {
        self.source_index
    }
}

/// A dataflow graph in SSA form. A copy shares nodes and payloads with the original.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    nodes: Vec<Option<Arc<Node>>>,
    /// The places of nodes that went, to be taken again.
    free: Vec<NodeId>,
    values: Vec<Value>,
    by_name: HashMap<String, ValueId>,
    /// Names inside regions: no new value may take one.
    pub(crate) inner_names: HashSet<String>,
    /// Names around a region that is changed: no new value may take one.
    pub(crate) outer_names: Arc<HashSet<String>>,
    /// The payloads of captures that are constants of the graph around.
    pub(crate) captured: HashMap<ValueId, Tensor>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
    pub(crate) initializers: IndexMap<ValueId, Tensor>,
    /// What else the file says of the graph: name, documentation, types, annotations, sparse initializers, metadata.
    pub(crate) rest: Arc<GraphProto>,
    /// Before IR version 4 every initializer is listed among the inputs and is a constant all the same.
    pub(crate) inputs_list_constants: bool,
}

impl Graph {
    /// The graph's name.
    pub fn name(&self) -> &str {
        self.rest.name()
    }

    /// The node `id`.
    ///
    /// # Panics
    /// When `id` is of another graph or was removed.
    pub fn node(&self, id: NodeId) -> &Node {
        match self.nodes.get(id.index()) {
            Some(Some(node)) => node,
            _ => panic!("{id:?} is no node of the graph"),
        }
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter_map(|(at, node)| Some((NodeId::new(at), node.as_deref()?)))
    }

    /// The node `id`, if it is in the graph.
    pub fn get_node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())?.as_deref()
    }

    fn node_ids(&self) -> impl Iterator<Item = NodeId> + Clone {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter(|(_, node)| node.is_some()).map(|(at, _)| NodeId::new(at))
    }

    /// The value `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The type of a value, as far as it is known: what follows from the operators before it, and what the file declares of the
    /// rest.
    pub fn ty(&self, id: ValueId) -> Type {
        let value = self.value(id);
        if let Some(tensor) = self.constant(id) {
            return Type::of_tensor(tensor);
        }
        let declared = value.info.as_ref().and_then(|info| info.r#type.as_ref());
        declared.map_or_else(|| value.inferred.clone(), |ty| value.inferred.clone().or(&Type::from_proto(ty)))
    }

    /// The type of a value as it follows from the node that defines it.
    pub fn inferred(&self, id: ValueId) -> &Type {
        &self.value(id).inferred
    }

    /// The value of this name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.by_name.get(name).copied()
    }

    /// All values, by id, those included that nothing defines or reads any more.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, value)| (ValueId(i as u32), value))
    }

    /// The inputs of the graph, those with a default value (an initializer) included.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The results of the graph.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The constants of the graph, in the file's order.
    pub fn initializers(&self) -> impl Iterator<Item = (ValueId, &Tensor)> {
        self.initializers.iter().map(|(&id, tensor)| (id, tensor))
    }

    /// The constant tensor behind a value: an initializer that no caller can override, be it one of the graph around.
    pub fn constant(&self, value: ValueId) -> Option<&Tensor> {
        match self.value(value).source {
            Source::Initializer => self.initializers.get(&value),
            Source::Input => self.initializers.get(&value).filter(|_| self.inputs_list_constants),
            Source::Capture => self.captured.get(&value),
            Source::Undefined | Source::Node { .. } => None,
        }
    }

    /// What the input `value` is unless a caller gives another: the initializer behind it, from IR version 4 on.
    pub fn default_of(&self, value: ValueId) -> Option<&Tensor> {
        let is_input = self.source(value) == Source::Input && !self.inputs_list_constants;
        self.initializers.get(&value).filter(|_| is_input)
    }

    /// The constant tensor behind a value, be it an initializer, as [`Graph::constant`], or what a `Constant` node holds.
    pub fn literal(&self, value: ValueId) -> Option<Cow<'_, Tensor>> {
        if let Some(tensor) = self.constant(value) {
            return Some(Cow::Borrowed(tensor));
        }
        let node = self.node(self.producer(value)?).op.as_standard("Constant")?;
        let tensor = Tensor::from_proto(node.find_attribute("value")?.t.clone()?);
        tensor.check().is_ok().then_some(Cow::Owned(tensor))
    }

    /// The inputs that a caller has to feed: those that no initializer stands behind.
    pub fn required_inputs(&self) -> impl Iterator<Item = ValueId> {
        self.inputs.iter().copied().filter(|id| !self.initializers.contains_key(id))
    }

    /// Where the value comes from.
    pub fn source(&self, value: ValueId) -> Source {
        self.value(value).source
    }

    /// The node that computes the value, if one does.
    pub fn producer(&self, value: ValueId) -> Option<NodeId> {
        match self.source(value) {
            Source::Node { node, .. } => Some(node),
            _ => None,
        }
    }

    /// The places that read the value, in the order in which they were connected if they are few.
    pub fn uses(&self, value: ValueId) -> &[Use] {
        self.value(value).uses.as_slice()
    }

    /// Whether the value is a result of the graph.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.outputs.contains(&value)
    }

    /// The nodes whose results the node reads, one that it reads twice two times.
    pub fn predecessors(&self, id: NodeId) -> impl Iterator<Item = NodeId> + Clone {
        self.node(id).reads().filter_map(|value| self.producer(value))
    }

    /// The nodes that read the node's results, one that does it twice two times.
    pub fn successors(&self, id: NodeId) -> impl Iterator<Item = NodeId> + Clone {
        let results = self.node(id).outputs.iter().flatten();
        results.flat_map(|&value| self.uses(value)).map(|place| place.node)
    }

    /// These nodes and all whose results they are computed from.
    pub fn ancestors(&self, of: impl IntoIterator<Item = NodeId>) -> HashSet<NodeId> {
        self.reached(of, Direction::Incoming)
    }

    /// These nodes and all that are computed from their results.
    pub fn descendants(&self, of: impl IntoIterator<Item = NodeId>) -> HashSet<NodeId> {
        self.reached(of, Direction::Outgoing)
    }

    /// How messages name a node: `MatMul "/layers.0/q_proj"`, or by its result where it has no name.
    pub fn label(&self, id: NodeId) -> String {
        let node = self.node(id);
        match (node.name.as_str(), node.outputs.iter().flatten().next()) {
            ("", Some(&value)) => format!("{} -> \"{}\"", node.op.kind(), self.value(value).name),
            (name, _) => format!("{} \"{name}\"", node.op.kind()),
        }
    }

    /// A name that no value has, made from `hint`; the same every time, until a value gets it. See
    /// [`FreshNames`](crate::FreshNames) for several.
    pub fn fresh_name(&self, hint: &str) -> String {
        fresh_name(hint, |name| self.is_taken(name))
    }

    /// Whether a value of the graph, of one around it or of a region in it has this name.
    pub(crate) fn is_taken(&self, name: &str) -> bool {
        let is_value = self.find(name).is_some_and(|value| !self.is_gone(value));
        is_value || self.inner_names.contains(name) || self.outer_names.contains(name)
    }

    /// Whether nothing defines the value and nothing reads it: it was in the graph once, and its name is free again.
    pub fn is_gone(&self, value: ValueId) -> bool {
        self.source(value) == Source::Undefined && self.uses(value).is_empty() && !self.is_output(value)
    }
}

/// A name made from `hint` that is not `taken`.
pub fn fresh_name(hint: &str, taken: impl Fn(&str) -> bool) -> String {
    let numbered = (1u64..).map(|i| format!("{hint}_{i}"));
    std::iter::once(hint.to_string()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
}
