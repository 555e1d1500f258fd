//! Cuts a graph into stages: standard operators, which a back end runs, then operators that we run.

use std::collections::{BTreeSet, HashMap, HashSet};

use zqc_ir::graph::Cycle;
use zqc_ir::{Graph, NodeId, Op, ValueId};

/// The nodes between two sets of linear layers, and the layers after them.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    /// The standard operators of the stage, for the back end, each after those whose results it reads. Operators
    /// that depend on constants only stand in every stage that reads them.
    pub nodes: Vec<NodeId>,
    /// What `nodes` read from earlier stages and from the graph's inputs.
    pub inputs: Vec<ValueId>,
    /// What `nodes` yield to later stages, to our operators, or as results.
    pub outputs: Vec<ValueId>,
    /// Control flow that we run after `nodes`.
    pub controls: Vec<NodeId>,
    /// Quantizations of activations, which the layers below read.
    pub quantizations: Vec<NodeId>,
    /// Linear layers with float weights.
    pub linears: Vec<NodeId>,
    /// Operators on quantized weights: linear layers and look-ups in tables.
    pub quantized: Vec<NodeId>,
    /// The values that nothing after this stage reads.
    pub last_read: Vec<ValueId>,
}

impl Stage {
    /// All operators that we run, each after those whose results it reads.
    pub fn own(&self) -> impl Iterator<Item = NodeId> + '_ {
        let lists = [&self.controls, &self.quantizations, &self.linears, &self.quantized];
        lists.into_iter().flatten().copied()
    }

    /// The list that an operator belongs to, which we run or not.
    fn list(&mut self, op: &Op, is_control: bool) -> &mut Vec<NodeId> {
        match op {
            Op::Onnx(_) if is_control => &mut self.controls,
            Op::Onnx(_) => &mut self.nodes,
            Op::QuantizeActivation(_) => &mut self.quantizations,
            Op::Linear(_) => &mut self.linears,
            Op::QuantizedLinear(_) | Op::QuantizedGather(_) => &mut self.quantized,
        }
    }
}

/// The stages that compute `wanted`, in order. Every stage reads values of earlier stages only. `is_control` says which
/// standard operators we run.
///
/// # Errors
/// When the graph has a cycle.
pub fn partition(
    graph: &Graph,
    wanted: &[ValueId],
    is_control: impl Fn(NodeId) -> bool,
) -> Result<Vec<Stage>, Cycle> {
    let ours = Ours { graph, is_control };
    let order = graph.order()?;
    let needed = graph.ancestors(wanted.iter().filter_map(|&value| graph.producer(value)));
    let order: Vec<NodeId> = order.into_iter().filter(|id| needed.contains(id)).collect();
    let constant = constant_nodes(&ours, &order);

    let scheduled: Vec<NodeId> = order.iter().copied().filter(|id| !constant.contains(id)).collect();
    let stage_of = schedule(&ours, &scheduled);
    let count = stage_of.values().max().map_or(1, |last| last + 1);
    let mut stages = vec![Stage::default(); count];
    for &id in &scheduled {
        stages[stage_of[&id]].list(&graph.node(id).op, ours.runs(id)).push(id);
    }
    add_constant_nodes(graph, &order, &constant, wanted, &mut stages);
    connect(graph, wanted, &mut stages);
    Ok(stages)
}

/// A graph, and what of it we run.
struct Ours<'g, F> {
    graph: &'g Graph,
    is_control: F,
}

impl<F: Fn(NodeId) -> bool> Ours<'_, F> {
    /// Whether we run the node.
    fn runs(&self, id: NodeId) -> bool {
        !matches!(self.graph.node(id).op, Op::Onnx(_)) || (self.is_control)(id)
    }

    /// Whether the results of the node are for later stages.
    fn ends_a_stage(&self, id: NodeId) -> bool {
        self.runs(id) && !matches!(self.graph.node(id).op, Op::QuantizeActivation(_))
    }
}

/// The stage of every node: our operators as early as what they read allows, standard ones as late as their readers
/// allow, so that what is made for one layer (a slice of a mask) does not wait in memory for it.
fn schedule(ours: &Ours<impl Fn(NodeId) -> bool>, order: &[NodeId]) -> HashMap<NodeId, usize> {
    let graph = ours.graph;
    let mut stage_of: HashMap<NodeId, usize> = HashMap::with_capacity(order.len());
    for &id in order {
        let after = |before: NodeId| {
            stage_of.get(&before).map(|stage| stage + usize::from(ours.ends_a_stage(before)))
        };
        let earliest = graph.predecessors(id).filter_map(after).max().unwrap_or(0);
        stage_of.insert(id, earliest);
    }
    for &id in order.iter().rev().filter(|&&id| !ours.runs(id)) {
        let latest = graph.successors(id).filter_map(|next| stage_of.get(&next)).min().copied();
        latest.and_then(|latest| stage_of.insert(id, latest));
    }
    stage_of
}

/// The standard operators that read nothing but constants, and give the same result every time.
fn constant_nodes(ours: &Ours<impl Fn(NodeId) -> bool>, order: &[NodeId]) -> HashSet<NodeId> {
    let graph = ours.graph;
    let mut constant = HashSet::new();
    for &id in order.iter().filter(|&&id| !ours.runs(id)) {
        let node = graph.node(id);
        let Op::Onnx(op) = &node.op else { continue };
        let random = op.op_type().starts_with("Random");
        let fixed = |value| match graph.producer(value) {
            Some(producer) => constant.contains(&producer),
            None => graph.constant(value).is_some(),
        };
        if !random && node.reads().all(fixed) {
            constant.insert(id);
        }
    }
    constant
}

/// Puts the constant operators that a stage reads in front of its nodes; also those that our operators or a result read.
fn add_constant_nodes(
    graph: &Graph,
    order: &[NodeId],
    constant: &HashSet<NodeId>,
    wanted: &[ValueId],
    stages: &mut [Stage],
) {
    let last = stages.len() - 1;
    for (index, stage) in stages.iter_mut().enumerate() {
        let readers = stage.nodes.iter().copied().chain(stage.own());
        let mut reads: Vec<ValueId> = readers.flat_map(|id| graph.node(id).reads()).collect();
        if index == last {
            reads.extend(wanted);
        }
        let feeding = graph.ancestors(reads.iter().filter_map(|&value| graph.producer(value)));
        let feeding = order.iter().filter(|id| constant.contains(id) && feeding.contains(id)).copied();
        let nodes: Vec<NodeId> = feeding.chain(std::mem::take(&mut stage.nodes)).collect();
        stage.nodes = nodes;
    }
}

fn connect(graph: &Graph, wanted: &[ValueId], stages: &mut [Stage]) {
    let mut later: BTreeSet<ValueId> = wanted.iter().copied().collect();
    for stage in stages.iter_mut().rev() {
        let defined: HashSet<ValueId> =
            stage.nodes.iter().flat_map(|&id| graph.node(id).outputs()).flatten().copied().collect();
        let made: HashSet<ValueId> =
            stage.own().flat_map(|id| graph.node(id).outputs()).flatten().copied().collect();
        let dynamic = |value: &ValueId| graph.constant(*value).is_none();
        let reads = |id: NodeId| graph.node(id).reads().filter(dynamic);
        let nodes_read: BTreeSet<ValueId> = stage.nodes.iter().copied().flat_map(reads).collect();
        let own_read: BTreeSet<ValueId> = stage.own().flat_map(reads).collect();
        stage.inputs = nodes_read.difference(&defined.iter().copied().collect()).copied().collect();
        stage.outputs = own_read.union(&later).filter(|value| defined.contains(value)).copied().collect();
        let alive = stage.inputs.iter().chain(&stage.outputs).chain(&own_read).chain(&made);
        stage.last_read = alive.copied().collect::<BTreeSet<_>>().difference(&later).copied().collect();
        later.retain(|value| !defined.contains(value) && !made.contains(value));
        later.extend(stage.inputs.iter().copied());
        later.extend(own_read.into_iter().filter(|value| !defined.contains(value) && !made.contains(value)));
    }
}
