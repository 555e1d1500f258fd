//! Cuts a graph into stages: what a back end runs, then the operators that we run.

use std::collections::{BTreeSet, HashMap, HashSet};

use zqc_ir::graph::Cycle;
use zqc_ir::{Graph, NodeId, Op, ValueId};

/// The subgraph between two sets of linear layers.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    /// The standard operators of the stage, for the back end, each after those whose results it reads. Operators
    /// that depend on constants only stand in every stage that reads them.
    pub nodes: Vec<NodeId>,
    /// What `nodes` read from earlier stages and from the graph's inputs.
    pub inputs: Vec<ValueId>,
    /// What `nodes` yield to later stages, to `layers`, or as results.
    pub outputs: Vec<ValueId>,
    /// What we run after `nodes`: quantization before the linear layers that read it, and control flow.
    pub layers: Vec<NodeId>,
    /// The values that nothing after this stage reads.
    pub last_read: Vec<ValueId>,
}

/// The stages that compute `wanted`, in order. Every stage reads values of earlier stages only. `is_control` says which
/// standard operators we run.
///
/// # Errors
/// When the graph has a circle.
pub fn partition(
    graph: &Graph,
    wanted: &[ValueId],
    is_control: impl Fn(NodeId) -> bool,
) -> Result<Vec<Stage>, Cycle> {
    let ours = Ours { graph, is_control };
    let order = graph.order()?;
    let needed = ancestors(graph, wanted);
    let order: Vec<NodeId> = order.into_iter().filter(|id| needed.contains(id)).collect();
    let constant = constant_nodes(&ours, &order);

    let scheduled: Vec<NodeId> = order.iter().copied().filter(|id| !constant.contains(id)).collect();
    let stage_of = schedule(&ours, &scheduled);
    let count = stage_of.values().max().map_or(1, |last| last + 1);
    let mut stages = vec![Stage::default(); count];
    for &id in &scheduled {
        let stage = &mut stages[stage_of[&id]];
        let list = if ours.runs(id) { &mut stage.layers } else { &mut stage.nodes };
        list.push(id);
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

fn ancestors(graph: &Graph, wanted: &[ValueId]) -> HashSet<NodeId> {
    let mut seen = HashSet::new();
    let mut open: Vec<NodeId> = wanted.iter().filter_map(|&value| graph.producer(value)).collect();
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            open.extend(graph.predecessors(id));
        }
    }
    seen
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

/// Puts the constant operators that a stage reads in front of its nodes; those that a layer or a result reads too.
fn add_constant_nodes(
    graph: &Graph,
    order: &[NodeId],
    constant: &HashSet<NodeId>,
    wanted: &[ValueId],
    stages: &mut [Stage],
) {
    let last = stages.len() - 1;
    for (index, stage) in stages.iter_mut().enumerate() {
        let readers = stage.nodes.iter().chain(&stage.layers);
        let mut reads: Vec<ValueId> = readers.flat_map(|&id| graph.node(id).reads()).collect();
        if index == last {
            reads.extend(wanted);
        }
        let feeding = ancestors(graph, &reads);
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
            stage.layers.iter().flat_map(|&id| graph.node(id).outputs()).flatten().copied().collect();
        let dynamic = |value: &ValueId| graph.constant(*value).is_none();
        let reads = |ids: &[NodeId]| -> BTreeSet<ValueId> {
            ids.iter().flat_map(|&id| graph.node(id).reads()).filter(dynamic).collect()
        };
        let (nodes_read, layers_read) = (reads(&stage.nodes), reads(&stage.layers));
        stage.inputs = nodes_read.difference(&defined.iter().copied().collect()).copied().collect();
        stage.outputs = layers_read.union(&later).filter(|value| defined.contains(value)).copied().collect();
        let alive = stage.inputs.iter().chain(&stage.outputs).chain(&layers_read).chain(&made);
        stage.last_read = alive.copied().collect::<BTreeSet<_>>().difference(&later).copied().collect();
        later.retain(|value| !defined.contains(value) && !made.contains(value));
        later.extend(stage.inputs.iter().copied());
        later.extend(
            layers_read.into_iter().filter(|value| !defined.contains(value) && !made.contains(value)),
        );
    }
}
