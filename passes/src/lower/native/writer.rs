//! Standard operators, written one after the other.

use std::collections::HashMap;

use zqc_ir::onnx::proto::AttributeProto;
use zqc_ir::{FreshNames, NewNode, Op};

/// Writes standard operators with one result each.
pub(super) struct Writer<'g> {
    names: FreshNames<'g>,
    nodes: Vec<NewNode>,
    /// The constants written so far, under the names that they were asked for by.
    constants: HashMap<&'static str, String>,
}

impl<'g> Writer<'g> {
    pub(super) fn new(names: FreshNames<'g>) -> Self {
        Self { names, nodes: Vec::new(), constants: HashMap::new() }
    }

    /// Names for what the graph gets besides.
    pub(super) fn names(&self) -> &FreshNames<'g> {
        &self.names
    }

    /// Adds a node and gives the name of its result, which is made from `hint`.
    pub(super) fn add(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
        hint: String,
    ) -> String {
        let result = self.names.fresh(&hint);
        self.nodes.push(NewNode {
            name: result.clone(),
            op: Op::standard(op_type, attributes),
            inputs: inputs.iter().map(|input| Some(input.to_string())).collect(),
            outputs: vec![Some(result.clone())],
            rank: None,
        });
        result
    }

    /// The name of a constant that the whole file shares.
    pub(super) fn constant(&mut self, name: &'static str, value: AttributeProto) -> String {
        if let Some(known) = self.constants.get(name) {
            return known.clone();
        }
        let constant = self.add("Constant", &[], vec![value], name.to_string());
        self.constants.insert(name, constant.clone());
        constant
    }

    /// Names the node that was added last; else nodes are named after their results.
    pub(super) fn name_last(&mut self, name: &str) {
        if let Some(last) = self.nodes.last_mut() {
            last.name = name.to_string();
        }
    }

    /// The nodes added since this was last asked for. The last one yields `value` and stands at place `rank` of the source
    /// file.
    pub(super) fn finish(&mut self, value: &str, rank: Option<u32>) -> Vec<NewNode> {
        if let Some(last) = self.nodes.last_mut() {
            last.outputs = vec![Some(value.to_string())];
            last.rank = rank;
        }
        std::mem::take(&mut self.nodes)
    }
}
