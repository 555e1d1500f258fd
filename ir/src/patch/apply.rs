//! How a patch changes a model: as a whole or not at all.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Change, Patch, PatchError};
use crate::graph::{Graph, Node, NodeId, Source, ValueId};
use crate::model::Model;
use crate::node_names::NodeNames;
use crate::onnx::proto::{FunctionProto, GraphProto, ModelProto, ValueInfoProto};
use crate::op::Op;
use crate::types::Type;

impl Patch {
    /// Applies the changes to `model`. An ONNX node that they add gets a number behind its name where another one has it.
    ///
    /// # Errors
    /// When a change names what is not there, or a value is defined twice or not at all; `model` is then as it was.
    pub fn apply(mut self, model: &mut Model) -> Result<(), PatchError> {
        let graph = model.graph.clone();
        let mut rewriter = Rewriter {
            graph,
            added: Vec::new(),
            released: HashSet::new(),
            reads: Vec::new(),
            rewired: Vec::new(),
            reasons: Vec::new(),
        };
        for input in std::mem::take(&mut self.inputs) {
            rewriter.add_input(input)?;
        }
        for change in std::mem::take(&mut self.changes) {
            rewriter.change(change)?;
        }
        rewriter.check_reads()?;
        rewriter.check_types()?;
        if let Some(outputs) = &self.outputs {
            rewriter.replace_outputs(outputs)?;
        }
        rewriter.name_apart();
        let mut graph = rewriter.graph;
        graph.forget_gone();
        graph.bind_regions();
        self.change_header(&mut model.header);
        if model.header.ir_version() >= 4 {
            graph.unlist_constants();
        }
        model.graph = graph;
        for (domain, version) in self.opsets {
            model.import_opset(&domain, version);
        }
        if model.header.opset_import.is_empty() {
            // A model has imports; none means the first version of the standard domain.
            model.import_opset("", model.opset());
        }
        Ok(())
    }

    fn change_header(&mut self, header: &mut ModelProto) {
        header.functions.retain(|function| !self.forget.iter().any(|domain| domain == function.domain()));
        header.opset_import.retain(|import| !self.forget.iter().any(|domain| domain == import.domain()));
        for function in std::mem::take(&mut self.functions) {
            let key = |f: &FunctionProto| [f.domain(), f.name(), f.overload()].map(str::to_string);
            let wanted = key(&function);
            match header.functions.iter_mut().find(|f| key(f) == wanted) {
                Some(old) => *old = function,
                None => header.functions.push(function),
            }
        }
        header.ir_version = header.ir_version.max(self.ir_version);
    }
}

/// A copy of the graph that is being changed.
struct Rewriter {
    graph: Graph,
    /// The nodes that changes add, each with the change.
    added: Vec<(usize, NodeId)>,
    /// The reasons of the changes so far.
    reasons: Vec<String>,
    /// The nodes that went because nothing read their results any more; later changes may still name them.
    released: HashSet<NodeId>,
    /// The values that changes read, each with the change.
    reads: Vec<(usize, ValueId)>,
    /// The values that nodes read now, each with the change and with what the node read before.
    rewired: Vec<(usize, ValueId, Type)>,
}

impl Rewriter {
    fn add_input(&mut self, input: ValueInfoProto) -> Result<(), PatchError> {
        let id = self.graph.intern(input.name());
        if !self.graph.define(id, Source::Input) {
            return Err(PatchError::InputRedefined { value: input.name().to_string() });
        }
        self.graph.value_mut(id).info = Some(input);
        self.graph.inputs.push(id);
        Ok(())
    }

    /// Gives the graph other results; what only its own were computed from goes.
    fn replace_outputs(&mut self, names: &[String]) -> Result<(), PatchError> {
        let graph = &mut self.graph;
        let defined = |name: &String| {
            let found = graph.find(name).filter(|&id| graph.source(id) != Source::Undefined);
            found.ok_or_else(|| PatchError::NoSuchResult { value: name.clone() })
        };
        let outputs = names.iter().map(defined).collect::<Result<Vec<_>, _>>()?;
        let old = std::mem::replace(&mut graph.outputs, outputs);
        let declared = |&id: &ValueId| ValueInfoProto {
            name: Some(graph.value(id).name.clone()),
            r#type: graph.ty(id).to_proto(),
            ..Default::default()
        };
        let infos = graph.outputs.iter().map(declared).collect();
        graph.rest = Arc::new(GraphProto { output: infos, ..GraphProto::clone(&graph.rest) });
        self.released.extend(old.into_iter().flat_map(|value| graph.remove_if_unused(value)));
        Ok(())
    }

    fn change(&mut self, change: Change) -> Result<(), PatchError> {
        let Change { why, initializers, remove, add, rewire, replace, regions, remove_if_unused } = change;
        let graph = &mut self.graph;
        let redefined = |value: &str| PatchError::Redefined { why: why.clone(), value: value.to_string() };
        let number = self.reasons.len();
        for id in remove {
            if self.released.remove(&id) {
                continue;
            }
            graph.remove(id).ok_or_else(|| PatchError::NoSuchNode { why: why.clone() })?;
        }
        for (name, tensor) in initializers {
            let id = graph.intern(&name);
            if !graph.define(id, Source::Initializer) {
                return Err(redefined(&name));
            }
            graph.initializers.insert(id, tensor);
        }
        for (value, tensor) in replace {
            match graph.initializers.get_mut(&value) {
                Some(old) => *old = tensor,
                None => return Err(PatchError::NoSuchConstant { why }),
            }
        }
        for node in add {
            let mut ids = |names: Vec<Option<String>>| -> Vec<Option<ValueId>> {
                names.into_iter().map(|name| name.map(|name| graph.intern(&name))).collect()
            };
            let (inputs, outputs) = (ids(node.inputs), ids(node.outputs));
            let inserted =
                graph.insert(&node.name, node.op, inputs, outputs, node.regions, node.source_index);
            let id = inserted.map_err(|value| redefined(&graph.value(value).name))?;
            self.reads.extend(graph.node(id).reads().map(|value| (number, value)));
            self.added.push((number, id));
        }
        for (id, region) in regions {
            if !graph.replace_region(id, region) {
                return Err(PatchError::NoSuchNode { why });
            }
            self.reads.extend(graph.node(id.node).captures().iter().map(|&value| (number, value)));
        }
        for (id, port, name) in rewire {
            if self.released.contains(&id) {
                continue;
            }
            if graph.get_node(id).is_none_or(|node| port >= node.inputs().len()) {
                return Err(PatchError::NoSuchNode { why });
            }
            let value = graph.intern(&name);
            let old = graph.node(id).input(port).map_or_else(Type::default, |old| graph.ty(old));
            graph.rewire(id, port, value);
            self.reads.push((number, value));
            self.rewired.push((number, value, old));
        }
        self.released.extend(remove_if_unused.into_iter().flat_map(|value| graph.remove_if_unused(value)));
        self.reasons.push(why);
        Ok(())
    }

    /// Checks that what the changes read is defined, be it by a later one.
    fn check_reads(&self) -> Result<(), PatchError> {
        let graph = &self.graph;
        let is_lost = |value| graph.source(value) == Source::Undefined && !graph.is_gone(value);
        match self.reads.iter().find(|(_, value)| is_lost(*value)) {
            None => Ok(()),
            Some(&(number, value)) => Err(PatchError::Undefined {
                why: self.reasons[number].clone(),
                value: graph.value(value).name.clone(),
            }),
        }
    }

    /// Infers the types of what was added, and checks that what takes the place of another value has a type that fits.
    fn check_types(&mut self) -> Result<(), PatchError> {
        // The verifier reports cycles.
        let Ok(mut order) = self.graph.order() else { return Ok(()) };
        let added: HashSet<NodeId> = self.added.iter().map(|(_, id)| *id).collect();
        order.retain(|id| added.contains(id));
        let graph = &mut self.graph;
        let refused = |graph: &Graph, number: Option<usize>, value, old, new| PatchError::Type {
            why: number.map_or_else(String::new, |number: usize| self.reasons[number].clone()),
            value: Graph::value(graph, value).name.clone(),
            old: Box::new(old),
            new: Box::new(new),
        };
        if let Err(change) = graph.infer_types(&order) {
            let (value, old, new) = *change;
            let producer = graph.producer(value);
            let number = self.added.iter().find(|(_, id)| Some(*id) == producer).map(|(number, _)| *number);
            return Err(refused(graph, number, value, old, new));
        }
        for (number, value, old) in std::mem::take(&mut self.rewired) {
            let new = graph.ty(value);
            if new.contradicts(&old) {
                return Err(refused(graph, Some(number), value, old, new));
            }
        }
        Ok(())
    }

    /// Gives the ONNX nodes among those added names that no other one has.
    fn name_apart(&mut self) {
        let graph = &mut self.graph;
        let is_new: HashSet<NodeId> = self.added.iter().map(|(_, id)| *id).collect();
        let mut names = NodeNames::default();
        let old = graph.nodes().filter(|(id, node)| matches!(node.op, Op::Onnx(_)) && !is_new.contains(id));
        old.for_each(|(_, node)| names.take(&node.name));
        for &(_, id) in &self.added {
            // A later change may have taken the node out again.
            if let Some(Node { name, op: Op::Onnx(_), .. }) = graph.get_node(id) {
                let issued = names.issue(name);
                if issued != *name {
                    graph.rename_node(id, issued);
                }
            }
        }
    }
}
