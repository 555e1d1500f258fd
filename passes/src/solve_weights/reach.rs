//! Which layers the back end can bring calibration data to, found out before any is solved.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use zqc_ir::{Graph, Model, NodeId, Op, ValueId};
use zqc_runtime::{Backend, BackendError, Interpreter, RunError, Stage};

use super::last_layers;

/// The nodes that cannot be run, or that wait for the result of one, with the reason.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    reasons: HashMap<NodeId, String>,
}

impl Blocked {
    /// Loads every stage of `model` once, and leaves out node by node what the back end refuses.
    pub(super) fn find(model: &Model, backend: &dyn Backend) -> Result<Self, RunError> {
        let graph = &model.graph;
        let mut blocked = Self::default();
        let interpreter = Interpreter::new(model, backend, last_layers(graph, |_| true))?;
        for stage in interpreter.stages() {
            for &id in &stage.layers {
                match interpreter.try_control(id) {
                    Err(RunError::Backend(refusal)) => blocked.add(graph, id, &refusal),
                    tried => tried?,
                }
            }
            while let Err(error) = interpreter.load(&blocked.rest(graph, stage)) {
                let RunError::Backend(refusal) = error else { return Err(error) };
                let rest = blocked.rest(graph, stage).nodes;
                match named(graph, &rest, &refusal) {
                    Some(id) => blocked.add(graph, id, &refusal),
                    None => rest.into_iter().for_each(|id| blocked.add(graph, id, &refusal)),
                }
            }
        }
        Ok(blocked)
    }

    /// Why no data comes to the node; `None` when it does.
    pub(super) fn reason(&self, id: NodeId) -> Option<&str> {
        self.reasons.get(&id).map(String::as_str)
    }

    /// The results of the linear layers that data comes to, as [`last_layers`].
    pub(super) fn last_layers(&self, graph: &Graph) -> Vec<ValueId> {
        last_layers(graph, |id| !self.reasons.contains_key(&id))
    }

    /// Blocks a node and all that come after it.
    fn add(&mut self, graph: &Graph, id: NodeId, refusal: &BackendError) {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if let Entry::Vacant(place) = self.reasons.entry(id) {
                place.insert(refusal.to_string());
                open.extend(graph.successors(id));
            }
        }
    }

    /// The stage without the nodes that are blocked.
    fn rest(&self, graph: &Graph, stage: &Stage) -> Stage {
        let runs = |id: &NodeId| !self.reasons.contains_key(id);
        let nodes: Vec<NodeId> = stage.nodes.iter().copied().filter(runs).collect();
        let made: HashSet<ValueId> =
            nodes.iter().flat_map(|&id| graph.node(id).outputs()).flatten().copied().collect();
        let outputs = stage.outputs.iter().copied().filter(|value| made.contains(value)).collect();
        Stage { nodes, outputs, ..stage.clone() }
    }
}

/// The node among `nodes` that the back end refuses, or that holds the one that it refuses.
fn named(graph: &Graph, nodes: &[NodeId], refusal: &BackendError) -> Option<NodeId> {
    let BackendError::UnsupportedNode { node: name, op_type, .. } = refusal else { return None };
    let is_meant = |&&id: &&NodeId| {
        let node = graph.node(id);
        let output = node.output(0).map_or("", |value| graph.value(value).name.as_str());
        let unnamed = node.name.is_empty() && *name == format!("{op_type}({output})");
        node.op.kind() == op_type && (node.name == *name || unnamed)
    };
    let called = |&&id: &&NodeId| match &graph.node(id).op {
        Op::Onnx(proto) => !proto.name().is_empty() && name.starts_with(&format!("{}/", graph.node(id).name)),
        _ => false,
    };
    nodes.iter().find(is_meant).or_else(|| nodes.iter().find(called)).copied()
}
