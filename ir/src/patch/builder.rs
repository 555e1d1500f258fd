//! Writes patches: values are handles, and what a patch adds gets names that no value has.
//!
//! ```
//! # use zqc_ir::{Graph, ValueId, NodeId, patch::PatchBuilder, op::attribute::int};
//! # fn example(graph: &Graph, node: NodeId, x: ValueId, weight: ValueId, bias: ValueId) -> zqc_ir::Patch {
//! let mut patch = PatchBuilder::new(graph);
//! let mut change = patch.change("a product and a sum take its place", "y");
//! let product = change.op("MatMul", [x.into(), weight.into()]).output("product");
//! let sum = change.op("Add", [product, bias.into()]).output("sum");
//! change.replace(node, &sum);
//! patch.finish()
//! # }
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Change, NewNode, Patch};
use crate::fresh_names::FreshNames;
use crate::graph::{Graph, NodeId, Port, ValueId};
use crate::onnx::proto::AttributeProto;
use crate::op::Op;
use crate::tensor::{DataType, Tensor};

/// A value as a change refers to it: one of the graph, or one that the patch adds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ValueRef(Referent);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Referent {
    InGraph(ValueId),
    Added(Arc<str>),
}

impl From<ValueId> for ValueRef {
    fn from(value: ValueId) -> Self {
        Self(Referent::InGraph(value))
    }
}

impl From<&ValueRef> for ValueRef {
    fn from(value: &ValueRef) -> Self {
        value.clone()
    }
}

impl ValueRef {
    fn added(name: String) -> Self {
        Self(Referent::Added(name.into()))
    }
}

/// Constant integers, by dimensions and values.
type Integers = HashMap<(Vec<usize>, Vec<i64>), ValueRef>;

/// A patch in the making.
#[derive(Debug)]
pub struct PatchBuilder<'g> {
    graph: &'g Graph,
    names: FreshNames<'g>,
    /// Those that the changes share.
    integers: Integers,
    /// What is read instead of the results of nodes that were bypassed, by name.
    bypassed: HashMap<String, String>,
    changes: Vec<Change>,
}

impl<'g> PatchBuilder<'g> {
    /// A patch of `graph` with no change yet.
    pub fn new(graph: &'g Graph) -> Self {
        Self {
            graph,
            names: FreshNames::new(graph),
            integers: HashMap::new(),
            bypassed: HashMap::new(),
            changes: Vec::new(),
        }
    }

    /// The graph that is to be changed.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// A name made from `hint` that no value has and that was not made before.
    pub fn fresh(&self, hint: &str) -> String {
        self.names.fresh(hint)
    }

    /// Begins a change, made for the reason `why`. The values that it adds are called `PREFIX_PART`. It joins the patch when it
    /// is finished; one that is dropped leaves nothing behind.
    pub fn change(&mut self, why: impl Into<String>, prefix: impl Into<String>) -> ChangeBuilder<'_, 'g> {
        ChangeBuilder {
            change: Change::new(why),
            prefix: prefix.into(),
            integers: HashMap::new(),
            patch: self,
        }
    }

    /// Begins a change that replaces the node `id`: its values are called after the node's first result.
    pub fn change_of(&mut self, id: NodeId, why: impl Into<String>) -> ChangeBuilder<'_, 'g> {
        let result = self.graph.node(id).output(0);
        self.change(why, result.map_or("", |result| &self.graph.value(result).name))
    }

    /// Adds a change that was written by hand.
    pub fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Whether there is no change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The patch.
    pub fn finish(mut self) -> Patch {
        if !self.bypassed.is_empty() {
            self.resolve_bypassed();
        }
        Patch { changes: self.changes, ..Patch::default() }
    }

    /// Nodes that were bypassed may have read each other's results: lets every change read what is left at the end.
    fn resolve_bypassed(&mut self) {
        let bypassed = &self.bypassed;
        let resolve = |name: &mut String| {
            // As often as there are any, at most: values that stand for each other are the fault of a pass.
            for _ in 0..bypassed.len() {
                let Some(instead) = bypassed.get(name) else { break };
                name.clone_from(instead);
            }
        };
        let mut removed = HashSet::new();
        for change in &mut self.changes {
            removed.extend(change.remove.iter().copied());
            change.rewire.retain(|(reader, ..)| !removed.contains(reader));
            change.rewire.iter_mut().for_each(|(_, _, name)| resolve(name));
            change.add.iter_mut().flat_map(|node| &mut node.inputs).flatten().for_each(resolve);
        }
    }

    /// The name of a value.
    pub fn name(&self, value: &ValueRef) -> String {
        match &value.0 {
            Referent::InGraph(value) => self.graph.value(*value).name.clone(),
            Referent::Added(name) => name.to_string(),
        }
    }
}

/// A change in the making, see [`PatchBuilder::change`].
#[derive(Debug)]
pub struct ChangeBuilder<'p, 'g> {
    patch: &'p mut PatchBuilder<'g>,
    change: Change,
    prefix: String,
    /// Those that this change adds.
    integers: Integers,
}

impl<'p, 'g> ChangeBuilder<'p, 'g> {
    /// The graph that is to be changed.
    pub fn graph(&self) -> &'g Graph {
        self.patch.graph
    }

    /// The initializer of these dimensions and values, which all changes of the patch share.
    pub fn integers(&mut self, dims: &[usize], values: &[i64]) -> ValueRef {
        let key = (dims.to_vec(), values.to_vec());
        if let Some(known) = self.patch.integers.get(&key).or_else(|| self.integers.get(&key)) {
            return known.clone();
        }
        let words: Vec<String> = values.iter().map(i64::to_string).collect();
        let kind = if dims.is_empty() { "int" } else { "ints" };
        let name = self.patch.fresh(&format!("{kind}_{}", words.join("_")));
        // As many values as the dimensions say, or the value has no definition and the patch is refused.
        let tensor = Tensor::from_i64(dims, values.to_vec());
        self.change.initializers.extend(tensor.ok().map(|tensor| (name.clone(), tensor)));
        let value = ValueRef::added(name);
        self.integers.insert(key, value.clone());
        value
    }

    /// A scalar initializer of this type; `None` where it is no type of floating-point numbers.
    pub fn scalar(&mut self, dtype: DataType, value: f32) -> Option<ValueRef> {
        let tensor = Tensor::from_f32_as(dtype, &[], vec![value]).ok()?;
        Some(self.constant(&format!("{}_scalar_{value}", self.prefix), tensor))
    }

    /// An initializer, with a name made from `hint`.
    pub fn constant(&mut self, hint: &str, tensor: Tensor) -> ValueRef {
        let name = self.patch.fresh(hint);
        self.change.initializers.push((name.clone(), tensor));
        ValueRef::added(name)
    }

    /// Gives a constant of the graph another payload, under the name that it has.
    pub fn replace_constant(&mut self, value: ValueId, tensor: Tensor) {
        self.change.replace.push((value, tensor));
    }

    /// Begins a node of the standard operator `op_type`.
    pub fn op(
        &mut self,
        op_type: &str,
        inputs: impl IntoIterator<Item = ValueRef>,
    ) -> NodeBuilder<'_, 'p, 'g> {
        self.node(Op::standard(op_type, Vec::new()), inputs.into_iter().map(Some))
    }

    /// Begins a node of any operator; `None` where an optional input is left out.
    pub fn node(
        &mut self,
        op: Op,
        inputs: impl IntoIterator<Item = Option<ValueRef>>,
    ) -> NodeBuilder<'_, 'p, 'g> {
        let inputs = inputs.into_iter().map(|input| Some(self.patch.name(&input?))).collect();
        let node = NewNode {
            name: String::new(),
            op,
            regions: Vec::new(),
            inputs,
            outputs: Vec::new(),
            source_index: None,
        };
        NodeBuilder { change: self, node }
    }

    /// Lets input `port` of a node of the graph read another value.
    pub fn rewire(&mut self, node: NodeId, port: usize, value: &ValueRef) {
        let name = self.patch.name(value);
        self.change.rewire.push((node, port, name));
    }

    /// A new value, `PREFIX_PART`, for a node to define.
    pub fn value(&self, part: &str) -> ValueRef {
        ValueRef::added(self.patch.fresh(&format!("{}_{part}", self.prefix)))
    }

    /// Takes a node out. What it read stays, see [`ChangeBuilder::remove_if_unused`].
    pub fn remove(&mut self, id: NodeId) {
        self.change.remove.push(id);
    }

    /// Takes values out that nothing reads any more, and what only they were computed from.
    pub fn remove_if_unused(&mut self, values: impl IntoIterator<Item = ValueId>) {
        self.change.remove_if_unused.extend(values);
    }

    /// Lets the node of this change that defines `value`, and nothing else, define `other` instead, and stand where the node `id`
    /// stands in the source file. What this change reads of it follows.
    pub fn define_as(&mut self, value: &ValueRef, other: impl Into<ValueRef>, id: NodeId) {
        let (name, other) = (self.patch.name(value), self.patch.name(&other.into()));
        let defines = |node: &NewNode| matches!(node.outputs.as_slice(), [Some(output)] if *output == name);
        let Some(at) = self.change.add.iter().rposition(defines) else { return };
        let node = &mut self.change.add[at];
        node.outputs = vec![Some(other.clone())];
        node.source_index = self.patch.graph.node(id).source_index();
        let inputs = self.change.add.iter_mut().flat_map(|node| &mut node.inputs).flatten();
        inputs.filter(|input| **input == name).for_each(|input| input.clone_from(&other));
    }

    /// Finishes the change: the node `id` goes with what only it read, and the node of this change that defines `result` takes
    /// its place, under its name and with its first result.
    pub fn replace(mut self, id: NodeId, result: &ValueRef) {
        let (old, name) = (self.patch.graph.node(id), self.patch.name(result));
        let defines = |node: &&mut NewNode| node.outputs.iter().flatten().any(|output| *output == name);
        let node = self.change.add.iter_mut().rev().find(defines);
        node.into_iter().for_each(|node| node.name.clone_from(&old.name));
        if let Some(y) = old.output(0) {
            self.define_as(result, y, id);
        }
        self.remove(id);
        self.remove_if_unused(old.reads());
        self.finish();
    }

    /// Finishes the change: the node `id` goes with what only it read, and what reads its first result reads `value`. Several nodes
    /// that read each other's results may be bypassed in one patch.
    ///
    /// There is no change where the result is one of the graph's or a subgraph reads it, by its name, or where the node has other
    /// results; then this is `false`.
    pub fn bypass(mut self, id: NodeId, value: impl Into<ValueRef>) -> bool {
        let (graph, value) = (self.patch.graph, value.into());
        let node = graph.node(id);
        let Some(result) = node.sole_output() else { return false };
        let places = graph.uses(result);
        if graph.is_output(result) || places.iter().any(|place| place.port == Port::Capture) {
            return false;
        }
        for place in places {
            if let Port::Input(port) = place.port {
                self.rewire(place.node, port, &value);
            }
        }
        let name = self.patch.name(&value);
        self.patch.bypassed.insert(graph.value(result).name.clone(), name);
        self.remove(id);
        self.remove_if_unused(node.reads());
        self.finish();
        true
    }

    /// Adds the change to the patch.
    pub fn finish(self) {
        self.patch.integers.extend(self.integers);
        self.patch.changes.push(self.change);
    }
}

/// A node in the making; it joins the change when it is told what it defines.
#[derive(Debug)]
#[must_use]
pub struct NodeBuilder<'c, 'p, 'g> {
    change: &'c mut ChangeBuilder<'p, 'g>,
    node: NewNode,
}

impl NodeBuilder<'_, '_, '_> {
    /// Gives it these attributes, beside those that its operator has.
    pub fn with(mut self, attributes: impl IntoIterator<Item = AttributeProto>) -> Self {
        if let Op::Onnx(proto) = &mut self.node.op {
            proto.attribute.extend(attributes);
        }
        self
    }

    /// Gives it a name.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.node.name = name.into();
        self
    }

    /// Gives it the name and the place in the source file of a node that goes.
    pub fn in_place_of(mut self, id: NodeId) -> Self {
        let old = self.change.patch.graph.node(id);
        (self.node.name, self.node.source_index) = (old.name.clone(), old.source_index());
        self
    }

    /// Lets it define one new value, `PREFIX_PART`.
    pub fn output(self, part: &str) -> ValueRef {
        let [value] = self.outputs([part]);
        value
    }

    /// Lets it define new values.
    pub fn outputs<const N: usize>(self, parts: [&str; N]) -> [ValueRef; N] {
        let names = parts.map(|part| self.change.patch.fresh(&format!("{}_{part}", self.change.prefix)));
        let values = names.map(ValueRef::added);
        self.defines(values.iter().cloned().map(Some));
        values
    }

    /// Lets it define one new value for each of `parts`.
    pub fn outputs_of(self, parts: impl IntoIterator<Item = String>) -> Vec<ValueRef> {
        let name = |part: String| self.change.patch.fresh(&format!("{}_{part}", self.change.prefix));
        let values: Vec<ValueRef> = parts.into_iter().map(name).map(ValueRef::added).collect();
        self.defines(values.iter().cloned().map(Some));
        values
    }

    /// Lets it define one new value, with a name made from `hint`, after which the node is called unless it has a name.
    pub fn output_named(mut self, hint: &str) -> ValueRef {
        let name = self.change.patch.fresh(hint);
        if self.node.name.is_empty() {
            self.node.name.clone_from(&name);
        }
        let value = ValueRef::added(name);
        self.defines([Some(value.clone())]);
        value
    }

    /// Lets it take the place of the node `id`, which goes: it has the same name and defines the same values.
    pub fn replaces(self, id: NodeId) {
        let outputs = self.change.patch.graph.node(id).outputs();
        self.change.remove(id);
        self.in_place_of(id).defines(outputs.iter().map(|output| output.map(ValueRef::from)));
    }

    /// Lets it define these values: results of nodes that go, or new ones.
    pub fn defines(mut self, outputs: impl IntoIterator<Item = Option<ValueRef>>) {
        let patch = &*self.change.patch;
        self.node.outputs = outputs.into_iter().map(|output| Some(patch.name(&output?))).collect();
        self.change.change.add.push(self.node);
    }
}
