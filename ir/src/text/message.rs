//! Models and graphs as messages, which the textual form is a form of.

use std::collections::HashSet;

use super::operators;
use crate::graph::{Graph, NodeId};
use crate::model::Model;
use crate::onnx::proto::{GraphProto, ModelProto, ValueInfoProto};
use crate::op::Op;

/// The order of a graph, or any where it has a cycle: that is printed too.
pub(super) fn any_order(graph: &Graph) -> Vec<NodeId> {
    graph.order().unwrap_or_else(|_| graph.nodes().map(|(id, _)| id).collect())
}

/// The model as one message, its nodes in this order, and which of them are operators of ours.
pub(crate) fn messages(model: &Model, order: &[NodeId]) -> (ModelProto, HashSet<usize>) {
    let (graph, own) = graph_message(&model.graph, order);
    (ModelProto { graph: Some(graph), ..model.header.clone() }, own)
}

/// The graph as a message, its nodes in this order, and which of them are operators of ours.
pub(super) fn graph_message(graph: &Graph, order: &[NodeId]) -> (GraphProto, HashSet<usize>) {
    let name = |id| graph.value(id).name.clone();
    let declaration = |id| {
        let unknown = || ValueInfoProto { name: Some(name(id)), ..Default::default() };
        graph.value(id).info.clone().unwrap_or_else(unknown)
    };
    let proto = GraphProto {
        node: order.iter().map(|&id| operators::node_to_proto(graph, graph.node(id))).collect(),
        initializer: graph.initializers().map(|(id, tensor)| tensor.to_proto(&name(id))).collect(),
        input: graph.inputs().iter().map(|&id| declaration(id)).collect(),
        ..GraphProto::clone(&graph.rest)
    };
    let own = order.iter().enumerate().filter(|&(_, &id)| !matches!(graph.node(id).op, Op::Onnx(_)));
    (proto, own.map(|(at, _)| at).collect())
}
