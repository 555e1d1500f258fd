//! How the reader and patches change a graph.

use std::sync::Arc;

use super::{Graph, Node, NodeId, Port, Source, Use, Value, ValueId};
use crate::onnx::proto::GraphProto;
use crate::op::Op;
use crate::types::{Type, infer};
use crate::uses::Uses;

impl Graph {
    /// The value of this name, made when there is none yet.
    pub(crate) fn intern(&mut self, name: &str) -> ValueId {
        if let Some(&id) = self.by_name.get(name) {
            return id;
        }
        let id = ValueId(self.values.len() as u32);
        self.values.push(Value {
            name: name.to_string(),
            info: None,
            inferred: Type::default(),
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
    /// then what only it was computed from. The payloads of constants go with [`Graph::forget_gone`], all at once. The nodes
    /// that went.
    pub(crate) fn remove_if_unused(&mut self, value: ValueId) -> Vec<NodeId> {
        let mut removed = Vec::new();
        let mut pending = vec![value];
        while let Some(value) = pending.pop() {
            if !self.uses(value).is_empty() || self.is_output(value) {
                continue;
            }
            if self.constant(value).is_some() || self.source(value) == Source::Capture {
                self.value_mut(value).source = Source::Undefined;
            } else if let Some(id) = self.producer(value) {
                let needed = |&output: &ValueId| !self.uses(output).is_empty() || self.is_output(output);
                if !self.node(id).outputs.iter().flatten().any(needed)
                    && let Some(node) = self.remove(id)
                {
                    for &output in node.outputs.iter().flatten() {
                        self.value_mut(output).inferred = Type::default();
                    }
                    pending.extend(node.reads());
                    removed.push(id);
                }
            }
        }
        removed
    }

    /// Forgets the payloads of values that are gone, and what the file says of them.
    pub(crate) fn forget_gone(&mut self) {
        let values = &self.values;
        let is_there =
            |id: &ValueId| matches!(values[id.0 as usize].source, Source::Initializer | Source::Input);
        self.initializers.retain(|id, _| is_there(id));
        self.captured.retain(|id, _| values[id.0 as usize].source == Source::Capture);
        self.inputs.retain(is_there);
        for id in (0..self.values.len() as u32).map(ValueId) {
            if self.is_gone(id) {
                self.value_mut(id).info = None;
            }
        }
        let is_gone = |name: &str| self.find(name).is_none_or(|id| self.is_gone(id));
        if self.rest.value_info.iter().any(|info| is_gone(info.name())) {
            let mut rest = GraphProto::clone(&self.rest);
            rest.value_info.retain(|info| !is_gone(info.name()));
            self.rest = Arc::new(rest);
        }
    }

    /// Takes the constants out of the inputs, where only IR versions below 4 list them.
    pub(crate) fn unlist_constants(&mut self) {
        if std::mem::take(&mut self.inputs_list_constants) {
            let initializers = &self.initializers;
            let (constants, inputs): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.inputs).into_iter().partition(|id| initializers.contains_key(id));
            self.inputs = inputs;
            constants.into_iter().for_each(|id| self.value_mut(id).source = Source::Initializer);
            let holders = self.nodes.iter_mut().flatten().filter(|node| !node.regions.is_empty());
            for region in holders.flat_map(|node| &mut Arc::make_mut(node).regions) {
                Arc::make_mut(region).unlist_constants();
            }
        }
    }

    /// Adds a node. The first output that another source already defines is returned as the
    /// error.
    pub(crate) fn insert(
        &mut self,
        name: &str,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<ValueId>>,
        regions: Vec<Arc<Graph>>,
        source_index: Option<u32>,
    ) -> Result<NodeId, ValueId> {
        let captures = self.capture(&regions);
        let node = Node { name: name.to_string(), op, inputs, outputs, regions, captures, source_index };
        let (inputs, outputs, captures) = (node.inputs.clone(), node.outputs.clone(), node.captures.clone());
        let id = self.place(node);
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
        let node = self.nodes.get_mut(id.index())?.take()?;
        self.free.push(id);
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
        Some(Arc::unwrap_or_clone(node))
    }

    /// Infers the types of the results of those nodes, in an order in which they can run. The first result that had another type
    /// before, from the node that defined it then, is returned as the error, with what it had and has.
    pub(crate) fn infer_types(&mut self, nodes: &[NodeId]) -> Result<(), Box<(ValueId, Type, Type)>> {
        for &id in nodes {
            let types = infer(self, self.node(id));
            let outputs = self.node(id).outputs.clone();
            for (value, ty) in outputs.into_iter().zip(types) {
                let Some(value) = value else { continue };
                let known = &mut self.value_mut(value).inferred;
                if ty.contradicts(known) {
                    return Err(Box::new((value, known.clone(), ty)));
                }
                *known = ty.or(known);
            }
        }
        Ok(())
    }

    /// Gives a node another name.
    pub(crate) fn rename_node(&mut self, id: NodeId, name: String) {
        self.node_mut(id).name = name;
    }

    /// Makes input `port` of `id` read `value` instead.
    pub(crate) fn rewire(&mut self, id: NodeId, port: usize, value: ValueId) {
        let place = Use { node: id, port: Port::Input(port) };
        if let Some(old) = self.node_mut(id).inputs[port].replace(value) {
            self.value_mut(old).uses.remove(place);
        }
        self.value_mut(value).uses.add(place);
    }

    /// A node that is about to change; a copy of the graph keeps it as it is.
    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        match &mut self.nodes[id.index()] {
            Some(node) => Arc::make_mut(node),
            None => panic!("{id:?} is no node of the graph"),
        }
    }

    /// Puts a node in the place that became free last, or behind all others.
    fn place(&mut self, node: Node) -> NodeId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            NodeId::new(self.nodes.len() - 1)
        });
        self.nodes[id.index()] = Some(Arc::new(node));
        id
    }
}
