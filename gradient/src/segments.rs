//! Where a decoder is cut into blocks.

use std::collections::{HashMap, HashSet};

use petgraph::algo::dominators::simple_fast;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{Dfs, Reversed, Walker};
use zqc_ir::graph::Cycle;
use zqc_ir::{Graph, Model, NodeId, Source, ValueId};

use crate::flow::may_be_float;

/// The values, in order, through which everything goes that is computed of the embeddings on the way to `output`: the embeddings
/// themselves, the residual stream between two blocks, and `output`. They are the dominators of `output` among floating-point values.
///
/// A graph has more beginnings than its embeddings, such as masks and the angles of rotary embeddings; the one is taken from which
/// most linear layers are reached: it alone leads to the first ones.
///
/// # Errors
/// When the graph has a cycle.
pub fn segments(model: &Model, output: ValueId) -> Result<Vec<ValueId>, Cycle> {
    let graph = &model.graph;
    let flow = Flow::new(graph, &graph.order()?);
    let needed = flow.needed(output);
    let reached = flow.beginnings.iter().map(|&beginning| (flow.reached(beginning, &needed), beginning));
    // The first of those that are equal.
    let widest = reached.reduce(|widest, other| if other.0 > widest.0 { other } else { widest });
    Ok(widest.map_or_else(Vec::new, |(_, beginning)| flow.passed(beginning, output)))
}

/// A vertex of the flow.
#[derive(Debug, Clone, Copy)]
enum Vertex {
    Value(ValueId),
    /// A node of the graph; several values may come from one, so that a node may dominate where no value does.
    Node {
        /// Whether it reads a constant matrix, as linear layers do.
        is_linear: bool,
    },
}

/// The floating-point values of a graph, and the nodes between them.
struct Flow {
    vertices: DiGraph<Vertex, ()>,
    of_value: HashMap<ValueId, NodeIndex>,
    /// The values that are computed of no other floating-point values but constants.
    beginnings: Vec<ValueId>,
}

impl Flow {
    fn new(graph: &Graph, order: &[NodeId]) -> Self {
        let mut flow = Self { vertices: DiGraph::new(), of_value: HashMap::new(), beginnings: Vec::new() };
        let is_input =
            |value: &ValueId| graph.source(*value) == Source::Input && graph.constant(*value).is_none();
        for &input in graph.inputs().iter().filter(|value| is_input(value) && may_be_float(graph, **value)) {
            flow.add(input);
            flow.beginnings.push(input);
        }
        let mut constants: HashSet<ValueId> =
            graph.values().map(|(id, _)| id).filter(|&id| graph.constant(id).is_some()).collect();
        for &id in order {
            let node = graph.node(id);
            if node.reads().all(|value| constants.contains(&value)) {
                constants.extend(node.outputs().iter().flatten());
                continue;
            }
            let from: Vec<NodeIndex> =
                node.reads().filter_map(|value| flow.of_value.get(&value).copied()).collect();
            let results = node.outputs().iter().flatten().copied();
            let results: Vec<ValueId> = results.filter(|&value| may_be_float(graph, value)).collect();
            if results.is_empty() {
                continue;
            }
            let is_matrix =
                |value| constants.contains(&value) && graph.ty(value).rank().is_some_and(|rank| rank > 1);
            let is_linear = node.reads().any(is_matrix);
            let vertex = flow.vertices.add_node(Vertex::Node { is_linear });
            for &from in &from {
                flow.vertices.add_edge(from, vertex, ());
            }
            for &value in &results {
                let to = flow.add(value);
                flow.vertices.add_edge(vertex, to, ());
            }
            if from.is_empty() {
                flow.beginnings.extend(results);
            }
        }
        flow
    }

    fn add(&mut self, value: ValueId) -> NodeIndex {
        let vertex = self.vertices.add_node(Vertex::Value(value));
        self.of_value.insert(value, vertex);
        vertex
    }

    /// What `to` is computed from.
    fn needed(&self, to: ValueId) -> HashSet<NodeIndex> {
        let Some(&end) = self.of_value.get(&to) else { return HashSet::new() };
        Dfs::new(Reversed(&self.vertices), end).iter(Reversed(&self.vertices)).collect()
    }

    /// How many linear layers among what is `needed` are reached from `from`.
    fn reached(&self, from: ValueId, needed: &HashSet<NodeIndex>) -> usize {
        let Some(&root) = self.of_value.get(&from) else { return 0 };
        let reached = Dfs::new(&self.vertices, root).iter(&self.vertices);
        let is_linear = |vertex| matches!(self.vertices[vertex], Vertex::Node { is_linear: true });
        reached.filter(|&vertex| needed.contains(&vertex) && is_linear(vertex)).count()
    }

    /// The values that every way from `from` to `to` passes, in order; none where there is no way.
    fn passed(&self, from: ValueId, to: ValueId) -> Vec<ValueId> {
        let (Some(&root), Some(&end)) = (self.of_value.get(&from), self.of_value.get(&to)) else {
            return Vec::new();
        };
        let dominators = simple_fast(&self.vertices, root);
        let passed = dominators.dominators(end).into_iter().flatten();
        let mut passed: Vec<ValueId> = passed
            .filter_map(|vertex| match self.vertices[vertex] {
                Vertex::Value(value) => Some(value),
                Vertex::Node { .. } => None,
            })
            .collect();
        passed.reverse();
        passed
    }
}
