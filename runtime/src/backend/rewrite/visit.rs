//! Walks over everything that a graph contains, subgraphs included.

use zqc_ir::onnx::proto::{GraphProto, NodeProto, TensorProto};

/// Calls `f` for every node, outer nodes before the nodes of their subgraphs.
pub fn for_each_node(graph: &mut GraphProto, f: &mut impl FnMut(&mut NodeProto)) {
    for node in &mut graph.node {
        f(node);
        for subgraph in subgraphs(node) {
            for_each_node(subgraph, f);
        }
    }
}

/// Calls `f` for `graph` and every graph nested in it.
pub fn for_each_graph(graph: &mut GraphProto, f: &mut impl FnMut(&mut GraphProto)) {
    f(graph);
    for subgraph in graph.node.iter_mut().flat_map(subgraphs) {
        for_each_graph(subgraph, f);
    }
}

/// The tensors among a node's attributes.
pub fn tensors(node: &mut NodeProto) -> impl Iterator<Item = &mut TensorProto> {
    node.attribute.iter_mut().flat_map(|attribute| attribute.t.iter_mut().chain(&mut attribute.tensors))
}

/// The graphs among a node's attributes.
pub fn subgraphs(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs))
}
