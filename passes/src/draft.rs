//! The nodes that take the place of one.

use std::collections::HashMap;

use zqc_ir::onnx::proto::AttributeProto;
use zqc_ir::tensor::DataType;
use zqc_ir::{Change, FreshNames, Graph, NewNode, NodeId, Op, Tensor, ValueId};

/// Constant integers by their dimensions and values: the changes of a pass share them.
#[derive(Default)]
pub(crate) struct Integers {
    names: HashMap<(Vec<usize>, Vec<i64>), String>,
}

/// A change in the making. The values that it adds are called after the result `y` of the node that goes.
pub(crate) struct Draft<'g, 'i> {
    graph: &'g Graph,
    names: &'i FreshNames<'g>,
    y: &'g str,
    pub change: Change,
    integers: &'i mut Integers,
}

impl<'g, 'i> Draft<'g, 'i> {
    pub fn new(
        graph: &'g Graph,
        names: &'i FreshNames<'g>,
        y: &'g str,
        why: String,
        integers: &'i mut Integers,
    ) -> Self {
        Self { graph, names, y, change: Change::new(why), integers }
    }

    /// The name of a value of the graph.
    pub fn name(&self, value: ValueId) -> &'g str {
        &self.graph.value(value).name
    }

    /// The initializer of these dimensions and values.
    pub fn integers(&mut self, dims: &[usize], values: &[i64]) -> String {
        let name = self.integers.names.entry((dims.to_vec(), values.to_vec())).or_insert_with(|| {
            let words: Vec<String> = values.iter().map(i64::to_string).collect();
            let kind = if dims.is_empty() { "int" } else { "ints" };
            let name = self.names.fresh(&format!("{kind}_{}", words.join("_")));
            let tensor = Tensor::from_i64(dims, values.to_vec());
            self.change.initializers.extend(tensor.ok().map(|tensor| (name.clone(), tensor)));
            name
        });
        name.clone()
    }

    /// A scalar initializer of this type; `None` where it is no type of floating-point numbers.
    pub fn scalar(&mut self, dtype: DataType, value: f32) -> Option<String> {
        let tensor = Tensor::from_f32_as(dtype, &[], vec![value]).ok()?;
        let name = self.fresh(&format!("scalar_{value}"));
        self.change.initializers.push((name.clone(), tensor));
        Some(name)
    }

    /// Adds a node; the name of its result, the `part` of `y`.
    pub fn node(
        &mut self,
        op_type: &str,
        attributes: Vec<AttributeProto>,
        inputs: &[&str],
        part: &str,
    ) -> String {
        let output = self.fresh(part);
        self.add(op_type, attributes, inputs, vec![output.clone()]);
        output
    }

    /// As [`Draft::node`], of a node with several results.
    pub fn node_of_several(
        &mut self,
        op_type: &str,
        attributes: Vec<AttributeProto>,
        inputs: &[&str],
        parts: impl Iterator<Item = String>,
    ) -> Vec<String> {
        let outputs: Vec<String> = parts.map(|part| self.fresh(&part)).collect();
        self.add(op_type, attributes, inputs, outputs.clone());
        outputs
    }

    /// Adds the node that yields the results `outputs` of the node that goes, and takes its name and its place.
    pub fn successor(
        &mut self,
        of: NodeId,
        op: Op,
        inputs: Vec<Option<String>>,
        outputs: Vec<Option<String>>,
    ) {
        let node = self.graph.node(of);
        self.change.add.push(NewNode { name: node.name.clone(), op, inputs, outputs, rank: node.rank() });
    }

    /// Adds a node of any operator, with these names of values.
    pub fn foreign(&mut self, op: Op, inputs: Vec<Option<String>>, outputs: Vec<Option<String>>) {
        self.change.add.push(NewNode { name: String::new(), op, inputs, outputs, rank: None });
    }

    /// Lets the node that was added last yield this value of the graph.
    pub fn yields(&mut self, value: ValueId) {
        let name = self.name(value).to_string();
        self.change.add.last_mut().into_iter().for_each(|node| node.outputs = vec![Some(name.clone())]);
    }

    /// Names the node that was added last.
    pub fn rename(&mut self, name: String) {
        self.change.add.last_mut().into_iter().for_each(|node| node.name = name.clone());
    }

    /// The change, with `id` replaced by the node that was added last: that yields `y`.
    pub fn replace(self, id: NodeId) -> Change {
        let (y, node) = (self.y, self.graph.node(id));
        let mut change = self.without(id);
        if let Some(last) = change.add.last_mut() {
            (last.name, last.rank) = (node.name.clone(), node.rank());
            last.outputs = vec![Some(y.to_string())];
        }
        change
    }

    /// The change, with `id` removed: the nodes that were added yield its results.
    pub fn without(self, id: NodeId) -> Change {
        let mut change = self.change;
        change.remove.push(id);
        change.release = self.graph.node(id).reads().collect();
        change
    }

    /// A name for a `part` of `y`.
    pub fn fresh(&self, part: &str) -> String {
        self.names.fresh(&format!("{}_{part}", self.y))
    }

    fn add(&mut self, op_type: &str, attributes: Vec<AttributeProto>, inputs: &[&str], outputs: Vec<String>) {
        self.change.add.push(NewNode {
            name: String::new(),
            op: Op::standard(op_type, attributes),
            inputs: inputs.iter().map(|name| Some(name.to_string())).collect(),
            outputs: outputs.into_iter().map(Some).collect(),
            rank: None,
        });
    }
}
