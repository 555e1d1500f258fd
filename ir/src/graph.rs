//! The dataflow graph: nodes are operators, edges carry values.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};

use crate::onnx::proto::{GraphProto, ValueInfoProto, type_proto};
use crate::op::Op;
use crate::tensor::{DataType, Tensor};
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
    /// By name, from inside the body of a control-flow operator.
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
#[derive(Debug, Clone)]
pub struct Value {
    /// Its name, unique in the graph.
    pub name: String,
    /// Element type and symbolic shape, where the file declares them.
    pub info: Option<ValueInfoProto>,
    source: Source,
    uses: Uses,
}

impl Value {
    /// Its element type, where the file declares it a tensor of one.
    pub fn dtype(&self) -> Option<DataType> {
        match self.info.as_ref()?.r#type.as_ref()?.value.as_ref()? {
            type_proto::Value::TensorType(tensor) => DataType::try_from(tensor.elem_type()).ok(),
            _ => None,
        }
    }
}

/// The weight of a petgraph edge: which value flows, from which output to which input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// The value.
    pub value: ValueId,
    /// Output port of the producer.
    pub from: usize,
    /// Input port of the consumer.
    pub to: Port,
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
    captures: Vec<ValueId>,
    /// Place in the source file; `None` for nodes that a pass made, which are written before their first reader.
    rank: Option<u32>,
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

    /// The outer values that control-flow bodies inside this node read.
    pub fn captures(&self) -> &[ValueId] {
        &self.captures
    }

    /// Every value read, as input or by a body.
    pub fn reads(&self) -> impl Iterator<Item = ValueId> {
        self.inputs.iter().flatten().chain(&self.captures).copied()
    }

    /// Its place in the source file, if it came from one.
    pub fn rank(&self) -> Option<u32> {
        self.rank
    }
}

/// Nodes that read each other's results in a circle, by label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nodes read each other's results in a circle: {}", .0.join(" -> "))]
pub struct Cycle(pub Vec<String>);

/// A dataflow graph in SSA form.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    dag: StableDiGraph<Node, Edge>,
    values: Vec<Value>,
    by_name: HashMap<String, ValueId>,
    /// Names inside control-flow bodies, and around a body: no new value may take one.
    pub(crate) inner_names: HashSet<String>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
    pub(crate) initializers: IndexMap<ValueId, Tensor>,
    /// What else the file says of the graph: name, documentation, types, annotations, sparse initializers, metadata.
    pub(crate) rest: GraphProto,
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
        &self.dag[id]
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.dag.node_indices().map(|id| (id, &self.dag[id]))
    }

    /// The value `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
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

    /// The constant tensor behind a value: an initializer that no caller can override.
    pub fn constant(&self, value: ValueId) -> Option<&Tensor> {
        let is_constant = match self.value(value).source {
            Source::Initializer => true,
            Source::Input => self.inputs_list_constants,
            Source::Undefined | Source::Node { .. } => false,
        };
        self.initializers.get(&value).filter(|_| is_constant)
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

    /// The value that `value` is a copy of: what a chain of `Identity` nodes starts from, or `value` itself.
    pub fn resolve_identity(&self, mut value: ValueId) -> ValueId {
        let source = |value| {
            let node = self.node(self.producer(value)?);
            node.op.as_standard("Identity").and(node.input(0))
        };
        while let Some(original) = source(value) {
            value = original;
        }
        value
    }

    /// The places that read the value, in the order in which they were connected if they are few.
    pub fn uses(&self, value: ValueId) -> &[Use] {
        self.value(value).uses.as_slice()
    }

    /// Whether the value is a result of the graph.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.outputs.contains(&value)
    }

    /// The nodes whose results the node reads.
    pub fn predecessors(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        self.dag.neighbors_directed(id, Direction::Incoming)
    }

    /// The nodes that read the node's results.
    pub fn successors(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        self.dag.neighbors_directed(id, Direction::Outgoing)
    }

    /// The edges as petgraph has them, for its algorithms.
    pub fn dag(&self) -> &StableDiGraph<Node, Edge> {
        &self.dag
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

    /// Whether a value of the graph or of a body in it has this name.
    pub(crate) fn is_taken(&self, name: &str) -> bool {
        self.find(name).is_some_and(|value| !self.is_gone(value)) || self.inner_names.contains(name)
    }

    /// Whether nothing defines the value and nothing reads it: it was in the graph once, and its name is free again.
    pub fn is_gone(&self, value: ValueId) -> bool {
        self.source(value) == Source::Undefined && self.uses(value).is_empty() && !self.is_output(value)
    }

    /// The nodes so that each comes after those whose results it reads. Nodes of the source file keep its order
    /// as far as that allows; nodes made by passes come right before their first reader.
    ///
    /// # Errors
    /// When there is no such order.
    pub fn order(&self) -> Result<Vec<NodeId>, Cycle> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            Unseen,
            Open,
            Done,
        }
        let mut roots: Vec<NodeId> = self.dag.node_indices().collect();
        roots.sort_by_key(|&id| (self.dag[id].rank.unwrap_or(u32::MAX), id));
        let mut marks =
            vec![Mark::Unseen; self.dag.node_indices().map(|id| id.index() + 1).max().unwrap_or(0)];
        let mut order = Vec::with_capacity(roots.len());
        let mut stack: Vec<(NodeId, Vec<NodeId>)> = Vec::new();
        let sources = |id: NodeId| {
            let mut sources: Vec<NodeId> =
                self.node(id).reads().filter_map(|value| self.producer(value)).collect();
            sources.reverse();
            sources
        };
        for root in roots {
            if marks[root.index()] == Mark::Unseen {
                marks[root.index()] = Mark::Open;
                stack.push((root, sources(root)));
            }
            while let Some((id, pending)) = stack.last_mut() {
                let id = *id;
                match pending.pop() {
                    Some(next) if marks[next.index()] == Mark::Unseen => {
                        marks[next.index()] = Mark::Open;
                        stack.push((next, sources(next)));
                    }
                    Some(next) if marks[next.index()] == Mark::Open => {
                        let start = stack.iter().position(|(open, _)| *open == next).unwrap_or(0);
                        return Err(Cycle(stack[start..].iter().map(|(id, _)| self.label(*id)).collect()));
                    }
                    Some(_) => {}
                    None => {
                        marks[id.index()] = Mark::Done;
                        order.push(id);
                        stack.pop();
                    }
                }
            }
        }
        Ok(order)
    }

    /// The value of this name, made when there is none yet.
    pub(crate) fn intern(&mut self, name: &str) -> ValueId {
        if let Some(&id) = self.by_name.get(name) {
            return id;
        }
        let id = ValueId(self.values.len() as u32);
        self.values.push(Value {
            name: name.to_string(),
            info: None,
            source: Source::Undefined,
            uses: Uses::default(),
        });
        self.by_name.insert(name.to_string(), id);
        id
    }

    pub(crate) fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.0 as usize]
    }

    /// Declares `value` an input or a constant of the graph; says whether nothing defined it before.
    pub(crate) fn define(&mut self, value: ValueId, source: Source) -> bool {
        let slot = &mut self.value_mut(value).source;
        let free = *slot == Source::Undefined;
        if free {
            *slot = source;
        }
        free
    }

    /// Removes a value that nothing reads, unless it is a result of the graph or an input that a caller may feed;
    /// then what only it was computed from. The payloads of constants go with [`Graph::forget_gone`], all at once.
    pub(crate) fn release(&mut self, value: ValueId) {
        let mut pending = vec![value];
        while let Some(value) = pending.pop() {
            if !self.uses(value).is_empty() || self.is_output(value) {
                continue;
            }
            if self.constant(value).is_some() {
                self.value_mut(value).source = Source::Undefined;
            } else if let Some(id) = self.producer(value) {
                let needed = |&output: &ValueId| !self.uses(output).is_empty() || self.is_output(output);
                if !self.node(id).outputs.iter().flatten().any(needed) {
                    pending.extend(self.remove(id).iter().flat_map(Node::reads));
                }
            }
        }
    }

    /// Forgets the payloads of values that are gone, and what the file says of them.
    pub(crate) fn forget_gone(&mut self) {
        let values = &self.values;
        let is_there =
            |id: &ValueId| matches!(values[id.0 as usize].source, Source::Initializer | Source::Input);
        self.initializers.retain(|id, _| is_there(id));
        self.inputs.retain(is_there);
        for id in (0..self.values.len() as u32).map(ValueId) {
            if self.is_gone(id) {
                self.value_mut(id).info = None;
            }
        }
        let mut types = std::mem::take(&mut self.rest.value_info);
        types.retain(|info| self.find(info.name()).is_some_and(|id| !self.is_gone(id)));
        self.rest.value_info = types;
    }

    /// Takes the constants out of the inputs, where only IR versions below 4 list them.
    pub(crate) fn unlist_constants(&mut self) {
        if std::mem::take(&mut self.inputs_list_constants) {
            let initializers = &self.initializers;
            let (constants, inputs): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.inputs).into_iter().partition(|id| initializers.contains_key(id));
            self.inputs = inputs;
            constants.into_iter().for_each(|id| self.value_mut(id).source = Source::Initializer);
        }
    }

    /// Takes all edges out while nodes come and go: petgraph walks all edges of a node to take one of them out.
    pub(crate) fn unlink(&mut self) {
        self.dag.clear_edges();
    }

    /// Draws the edges of a graph that has none.
    pub(crate) fn link(&mut self) {
        for (index, value) in self.values.iter().enumerate() {
            let Source::Node { node, port } = value.source else { continue };
            for place in value.uses.as_slice() {
                let edge = Edge { value: ValueId(index as u32), from: port, to: place.port };
                self.dag.add_edge(node, place.node, edge);
            }
        }
    }

    /// Adds a node; [`Graph::link`] connects it. The first output that another source already defines is returned as the
    /// error.
    pub(crate) fn insert(
        &mut self,
        name: &str,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<ValueId>>,
        rank: Option<u32>,
    ) -> Result<NodeId, ValueId> {
        let captures = self.captured(&op);
        let node = Node { name: name.to_string(), op, inputs, outputs, captures, rank };
        let (inputs, outputs, captures) = (node.inputs.clone(), node.outputs.clone(), node.captures.clone());
        let id = self.dag.add_node(node);
        for (port, value) in outputs.iter().enumerate() {
            let Some(value) = *value else { continue };
            if !self.define(value, Source::Node { node: id, port }) {
                return Err(value);
            }
        }
        for (port, value) in inputs.iter().enumerate() {
            if let Some(value) = *value {
                self.value_mut(value).uses.add(Use { node: id, port: Port::Input(port) });
            }
        }
        for value in captures {
            self.value_mut(value).uses.add(Use { node: id, port: Port::Capture });
        }
        Ok(id)
    }

    /// Takes a node out; its results become undefined until another node defines them.
    pub(crate) fn remove(&mut self, id: NodeId) -> Option<Node> {
        let node = self.dag.remove_node(id)?;
        for (port, value) in node.inputs.iter().enumerate() {
            if let Some(value) = *value {
                self.value_mut(value).uses.remove(Use { node: id, port: Port::Input(port) });
            }
        }
        for &value in &node.captures {
            self.value_mut(value).uses.remove(Use { node: id, port: Port::Capture });
        }
        for value in node.outputs.iter().flatten() {
            self.value_mut(*value).source = Source::Undefined;
        }
        Some(node)
    }

    /// Gives a node another name.
    pub(crate) fn rename_node(&mut self, id: NodeId, name: String) {
        self.dag[id].name = name;
    }

    /// Makes input `port` of `id` read `value` instead.
    pub(crate) fn rewire(&mut self, id: NodeId, port: usize, value: ValueId) {
        let place = Use { node: id, port: Port::Input(port) };
        if let Some(old) = self.dag[id].inputs[port].replace(value) {
            self.value_mut(old).uses.remove(place);
        }
        self.value_mut(value).uses.add(place);
    }

    /// The outer values that the bodies of a control-flow operator read.
    fn captured(&mut self, op: &Op) -> Vec<ValueId> {
        let Op::Onnx(node) = op else { return Vec::new() };
        let mut free = Vec::new();
        for body in node.bodies() {
            free_names(body, &mut free, &mut self.inner_names);
        }
        let mut seen = HashSet::new();
        free.retain(|name| seen.insert(name.clone()));
        free.iter().map(|name| self.intern(name)).collect()
    }
}

/// A name made from `hint` that is not `taken`.
pub fn fresh_name(hint: &str, taken: impl Fn(&str) -> bool) -> String {
    let numbered = (1u64..).map(|i| format!("{hint}_{i}"));
    std::iter::once(hint.to_string()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
}

/// Appends the names that `graph` reads and does not define; `defined` collects those that it does.
pub(crate) fn free_names(graph: &GraphProto, free: &mut Vec<String>, defined: &mut HashSet<String>) {
    let mut local: HashSet<&str> = HashSet::new();
    local.extend(graph.input.iter().map(|value| value.name()));
    local.extend(graph.initializer.iter().map(|tensor| tensor.name()));
    local.extend(
        graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref()).map(|t| t.name()),
    );
    local.extend(graph.node.iter().flat_map(|node| &node.output).map(String::as_str));
    let mut inner = Vec::new();
    for node in &graph.node {
        node.bodies().for_each(|body| free_names(body, &mut inner, defined));
    }
    let read = graph.node.iter().flat_map(|node| &node.input).cloned();
    let results = graph.output.iter().map(|value| value.name().to_string());
    free.extend(
        read.chain(inner).chain(results).filter(|name| !name.is_empty() && !local.contains(name.as_str())),
    );
    defined.extend(local.into_iter().map(str::to_string));
}
