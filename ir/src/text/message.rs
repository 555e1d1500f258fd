//! Models and graphs as messages, which the textual form is a form of.

use std::collections::HashSet;

use super::operators;
use crate::graph::{Graph, NodeId};
use crate::model::Model;
use crate::onnx::proto::{GraphProto, ModelProto, ValueInfoProto};
use crate::op::Op;

/// Which nodes are operators of ours, by their way from the graph as in [`OwnOperators`](crate::onnx::OwnOperators).
pub(crate) type OwnPlaces = HashSet<Vec<usize>>;

/// The order of a graph, or any where it has a cycle: that is printed too.
pub(super) fn any_order(graph: &Graph) -> Vec<NodeId> {
    graph.order().unwrap_or_else(|_| graph.nodes().map(|(id, _)| id).collect())
}

/// The model as one message, its nodes in this order, and which of them are operators of ours.
pub(crate) fn messages(model: &Model, order: &[NodeId]) -> (ModelProto, OwnPlaces) {
    let (graph, own) = graph_message(&model.graph, order);
    (ModelProto { graph: Some(graph), ..model.header.clone() }, own)
}

/// The graph as a message, its nodes in this order, and which of them are operators of ours.
pub(super) fn graph_message(graph: &Graph, order: &[NodeId]) -> (GraphProto, OwnPlaces) {
    let mut own = OwnPlaces::new();
    let proto = message(graph, order, &mut Vec::new(), &mut own);
    (proto, own)
}

/// The graph to which the way leads.
fn message(graph: &Graph, order: &[NodeId], way: &mut Vec<usize>, own: &mut OwnPlaces) -> GraphProto {
    let name = |id| graph.value(id).name.clone();
    let declaration = |id| {
        let unknown = || ValueInfoProto { name: Some(name(id)), ..Default::default() };
        graph.value(id).info.clone().unwrap_or_else(unknown)
    };
    let mut nodes = Vec::with_capacity(order.len());
    for (place, &id) in order.iter().enumerate() {
        way.push(place);
        let node = graph.node(id);
        let mut proto = operators::node_to_proto(graph, node);
        for (index, (body, region)) in proto.bodies_mut().zip(node.regions()).enumerate() {
            way.push(index);
            *body = message(region, &any_order(region), way, own);
            way.pop();
        }
        if !matches!(node.op, Op::Onnx(_)) {
            own.insert(way.clone());
        }
        nodes.push(proto);
        way.pop();
    }
    GraphProto {
        node: nodes,
        initializer: graph.initializers().map(|(id, tensor)| tensor.to_proto(&name(id))).collect(),
        input: graph.inputs().iter().map(|&id| declaration(id)).collect(),
        ..GraphProto::clone(&graph.rest)
    }
}
