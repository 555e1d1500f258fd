//! Which layers the back end can bring calibration data to, found out before any is solved.

use std::collections::{HashMap, HashSet};

use zqc_ir::{Graph, Model, NodeId, Op, ValueId};
use zqc_runtime::{BackendError, Interpreter, Live, LoadedRegions, LoadedWeight, RunError, Stage};

use super::{Calibration, last_layers};
use crate::pass::PassError;

/// The nodes that cannot be run, or that wait for the result of one, with the reason.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    reasons: HashMap<NodeId, String>,
}

impl Blocked {
    /// Loads every stage of `model` once, runs the first calibration sample through the float model, and leaves out node by node
    /// what the back end refuses.
    pub(super) fn find(model: &Model, calibration: &Calibration) -> Result<Self, PassError> {
        let graph = &model.graph;
        let mut blocked = Self::default();
        let interpreter = Interpreter::new(model, calibration.backend, last_layers(graph, |_| true))?;
        let mut sample = calibration.samples.first().map(|sample| {
            interpreter.feed(sample.iter().map(|(name, array)| (name.as_str(), array.clone())))
        });
        for stage in interpreter.stages() {
            for &id in &stage.controls {
                blocked.unless_refused(graph, &[id], interpreter.try_control(id))?;
            }
            blocked.try_nodes(&interpreter, stage, sample.as_mut())?;
            if let Some(live) = &mut sample {
                blocked.run_layers(&interpreter, stage, live)?;
                stage.last_read.iter().for_each(|value| drop(live.remove(value)));
            }
        }
        Ok(blocked)
    }

    /// Loads what the back end runs of a stage, and runs it on a sample if there is one.
    fn try_nodes(
        &mut self,
        interpreter: &Interpreter,
        stage: &Stage,
        mut sample: Option<&mut Live>,
    ) -> Result<(), PassError> {
        let graph = interpreter.graph();
        loop {
            let rest = self.rest(graph, stage);
            let Some(loaded) = self.unless_refused(graph, &rest.nodes, interpreter.load(&rest))? else {
                continue;
            };
            let (Some(session), Some(live)) = (loaded, &mut sample) else { return Ok(()) };
            let run = interpreter.run_nodes(&rest, session.as_ref(), live);
            if self.unless_refused(graph, &rest.nodes, run).map_err(of_sample)?.is_some() {
                return Ok(());
            }
        }
    }

    /// Runs what we run of a stage on a sample, with float weights.
    fn run_layers(
        &mut self,
        interpreter: &Interpreter,
        stage: &Stage,
        live: &mut Live,
    ) -> Result<(), PassError> {
        let graph = interpreter.graph();
        for &id in &stage.controls {
            if !self.reasons.contains_key(&id) {
                let run = interpreter.run_control(id, &mut LoadedRegions::default(), live);
                self.unless_refused(graph, &[id], run).map_err(of_sample)?;
            }
        }
        for &id in stage.quantized.iter().filter(|id| !self.reasons.contains_key(id)) {
            interpreter.run_quantized(id, &mut LoadedWeight::default(), live).map_err(of_sample)?;
        }
        for &id in stage.quantizations.iter().filter(|id| !self.reasons.contains_key(id)) {
            interpreter.pass_quantize(id, live).map_err(of_sample)?;
        }
        for &id in stage.linears.iter().filter(|id| !self.reasons.contains_key(id)) {
            let (weight, _) = interpreter.weight(id)?;
            interpreter.run_linear(id, &weight, None, live).map_err(of_sample)?;
        }
        Ok(())
    }

    /// What was tried; `None` if the back end refuses it, which blocks the node among `nodes` that is at fault, or all.
    fn unless_refused<T>(
        &mut self,
        graph: &Graph,
        nodes: &[NodeId],
        tried: Result<T, RunError>,
    ) -> Result<Option<T>, RunError> {
        match tried {
            Err(RunError::Backend(refusal)) if refusal.is_refusal() => {
                match named(graph, nodes, &refusal) {
                    Some(id) => self.add(graph, id, &refusal),
                    None => nodes.iter().for_each(|&id| self.add(graph, id, &refusal)),
                }
                Ok(None)
            }
            tried => tried.map(Some),
        }
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
        for id in graph.descendants([id]) {
            self.reasons.entry(id).or_insert_with(|| refusal.to_string());
        }
    }

    /// The stage without the nodes that are blocked.
    fn rest(&self, graph: &Graph, stage: &Stage) -> Stage {
        let runs = |id: &NodeId| !self.reasons.contains_key(id);
        let nodes: Vec<NodeId> = stage.nodes.iter().copied().filter(runs).collect();
        let made: HashSet<ValueId> =
            nodes.iter().flat_map(|&id| graph.node(id).outputs()).flatten().copied().collect();
        let read: HashSet<ValueId> = nodes.iter().flat_map(|&id| graph.node(id).reads()).collect();
        let inputs = stage.inputs.iter().copied().filter(|value| read.contains(value)).collect();
        let outputs = stage.outputs.iter().copied().filter(|value| made.contains(value)).collect();
        Stage { nodes, inputs, outputs, ..stage.clone() }
    }
}

/// The node among `nodes` that the back end refuses, or that holds the one that it refuses.
fn named(graph: &Graph, nodes: &[NodeId], refusal: &BackendError) -> Option<NodeId> {
    let (name, op_type) = refusal.node()?;
    let is_meant = |&&id: &&NodeId| is_called(graph, id, name, op_type);
    let called = |&&id: &&NodeId| match &graph.node(id).op {
        Op::Onnx(proto) => !proto.name().is_empty() && name.starts_with(&format!("{}/", graph.node(id).name)),
        _ => false,
    };
    let holds =
        |&&id: &&NodeId| graph.node(id).regions().iter().any(|region| holds_node(region, name, op_type));
    let found = nodes.iter().find(is_meant).or_else(|| nodes.iter().find(called));
    found.or_else(|| nodes.iter().find(holds)).copied()
}

/// Whether a node of this name and type is in a region, or in one inside it.
fn holds_node(region: &Graph, name: &str, op_type: &str) -> bool {
    let is_here = region.nodes().any(|(id, _)| is_called(region, id, name, op_type));
    is_here || region.regions().any(|(_, inner)| holds_node(inner, name, op_type))
}

/// Whether the node has this type, and this name or, where it has none, is called after its result as back ends do.
fn is_called(graph: &Graph, id: NodeId, name: &str, op_type: &str) -> bool {
    let node = graph.node(id);
    let output = node.output(0).map_or("", |value| graph.value(value).name.as_str());
    let unnamed = node.name.is_empty() && name == format!("{op_type}({output})");
    node.op.kind() == op_type && (node.name == name || unnamed)
}

/// An error of the first sample.
fn of_sample(source: RunError) -> PassError {
    PassError::Sample { sample: 0, source: Box::new(source) }
}
