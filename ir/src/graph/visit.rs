//! Petgraph's view of a graph: its algorithms run on `&Graph`, and nothing is stored for them.
//!
//! Edges are not held in a petgraph graph. Its adjacency lists are singly linked, so that taking out the readers of a value
//! that everything reads, such as a mask, costs the square of their number.

use std::collections::HashSet;

use petgraph::visit::{
    Data, Dfs, GraphBase, GraphProp, IntoNeighbors, IntoNeighborsDirected, IntoNodeIdentifiers, NodeCount,
    NodeIndexable, Reversed, Visitable,
};
use petgraph::{Directed, Direction};

use super::{Graph, Node, NodeId, ValueId};

impl Graph {
    /// These nodes and all that are found from them in one direction.
    pub(super) fn reached(
        &self,
        from: impl IntoIterator<Item = NodeId>,
        direction: Direction,
    ) -> HashSet<NodeId> {
        let mut search = Dfs::from_parts(from.into_iter().collect(), self.visit_map());
        match direction {
            Direction::Outgoing => while search.next(self).is_some() {},
            Direction::Incoming => while search.next(Reversed(self)).is_some() {},
        }
        search.discovered
    }
}

impl GraphBase for Graph {
    type EdgeId = (NodeId, NodeId);
    type NodeId = NodeId;
}

impl GraphProp for Graph {
    type EdgeType = Directed;
}

impl Data for Graph {
    type NodeWeight = Node;
    type EdgeWeight = ValueId;
}

impl NodeCount for Graph {
    fn node_count(&self) -> usize {
        self.node_ids().count()
    }
}

impl NodeIndexable for Graph {
    fn node_bound(&self) -> usize {
        self.nodes.len()
    }

    fn to_index(&self, id: NodeId) -> usize {
        id.index()
    }

    fn from_index(&self, index: usize) -> NodeId {
        NodeId::new(index)
    }
}

impl Visitable for Graph {
    type Map = HashSet<NodeId>;

    fn visit_map(&self) -> Self::Map {
        HashSet::new()
    }

    fn reset_map(&self, map: &mut Self::Map) {
        map.clear();
    }
}

impl<'g> IntoNodeIdentifiers for &'g Graph {
    type NodeIdentifiers = Box<dyn Iterator<Item = NodeId> + 'g>;

    fn node_identifiers(self) -> Self::NodeIdentifiers {
        Box::new(self.node_ids())
    }
}

impl<'g> IntoNeighbors for &'g Graph {
    type Neighbors = Box<dyn Iterator<Item = NodeId> + 'g>;

    fn neighbors(self, id: NodeId) -> Self::Neighbors {
        Box::new(self.successors(id))
    }
}

impl<'g> IntoNeighborsDirected for &'g Graph {
    type NeighborsDirected = Box<dyn Iterator<Item = NodeId> + 'g>;

    fn neighbors_directed(self, id: NodeId, direction: Direction) -> Self::NeighborsDirected {
        match direction {
            Direction::Outgoing => Box::new(self.successors(id)),
            Direction::Incoming => Box::new(self.predecessors(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use petgraph::algo::{has_path_connecting, is_cyclic_directed, tarjan_scc, toposort};

    use crate::graph::{Graph, NodeId};
    use crate::onnx::from_proto;
    use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};

    /// Nodes that read `reads` and define a value of their own name.
    fn graph(nodes: &[(&str, &[&str])]) -> Graph {
        let node = |&(name, reads): &(&str, &[&str])| NodeProto {
            op_type: Some("Sum".to_string()),
            input: reads.iter().map(|read| read.to_string()).collect(),
            output: vec![name.to_string()],
            ..Default::default()
        };
        let x = ValueInfoProto { name: Some("x".to_string()), ..Default::default() };
        let graph =
            GraphProto { node: nodes.iter().map(node).collect(), input: vec![x], ..Default::default() };
        let model = ModelProto {
            ir_version: Some(10),
            opset_import: vec![OperatorSetIdProto { version: Some(20), ..Default::default() }],
            graph: Some(graph),
            ..Default::default()
        };
        from_proto(model).unwrap().graph
    }

    #[test]
    fn petgraphs_algorithms_see_the_connections() {
        let graph = graph(&[("a", &["x"]), ("b", &["a", "a"]), ("c", &["x"]), ("d", &["b", "c"])]);
        let id = |name: &str| graph.producer(graph.find(name).unwrap()).unwrap();
        let [a, b, c, d] = ["a", "b", "c", "d"].map(id);
        assert!(!is_cyclic_directed(&graph));
        assert_eq!(tarjan_scc(&graph).len(), 4);
        assert!(has_path_connecting(&graph, a, d, None) && !has_path_connecting(&graph, c, b, None));
        let order = toposort(&graph, None).unwrap();
        let place = |id: NodeId| order.iter().position(|&other| other == id);
        assert!(place(a) < place(b) && place(b) < place(d) && place(c) < place(d));
        assert_eq!(graph.ancestors([b]), HashSet::from([a, b]));
        assert_eq!(graph.descendants([c, a]), HashSet::from([a, b, c, d]));
        assert_eq!(graph.predecessors(b).collect::<Vec<_>>(), [a, a]);
    }
}
