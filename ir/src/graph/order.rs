//! An order in which the nodes can run.

use super::{Graph, NodeId};

/// Nodes that read each other's results in a cycle, by label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nodes read each other's results in a cycle: {}", .0.join(" -> "))]
pub struct Cycle(pub Vec<String>);

impl Graph {
    /// The nodes so that each comes after those whose results it reads. Nodes of the source file keep its order
    /// as far as that allows; nodes made by passes come right before their first reader.
    ///
    /// # Errors
    /// When there is no such order.
    pub fn order(&self) -> Result<Vec<NodeId>, Cycle> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            Unseen,
            Open,
            Done,
        }
        let mut roots: Vec<NodeId> = self.node_ids().collect();
        roots.sort_by_key(|&id| (self.node(id).source_index.unwrap_or(u32::MAX), id));
        let mut marks = vec![Mark::Unseen; self.nodes.len()];
        let mut order = Vec::with_capacity(roots.len());
        let mut stack: Vec<(NodeId, Vec<NodeId>)> = Vec::new();
        let sources = |id: NodeId| {
            let mut sources: Vec<NodeId> =
                self.node(id).reads().filter_map(|value| self.producer(value)).collect();
            sources.reverse();
            sources
        };
        for root in roots {
            if marks[root.index()] == Mark::Unseen {
                marks[root.index()] = Mark::Open;
                stack.push((root, sources(root)));
            }
            while let Some((id, pending)) = stack.last_mut() {
                let id = *id;
                match pending.pop() {
                    Some(next) if marks[next.index()] == Mark::Unseen => {
                        marks[next.index()] = Mark::Open;
                        stack.push((next, sources(next)));
                    }
                    Some(next) if marks[next.index()] == Mark::Open => {
                        let start = stack.iter().position(|(open, _)| *open == next).unwrap_or(0);
                        return Err(Cycle(stack[start..].iter().map(|(id, _)| self.label(*id)).collect()));
                    }
                    Some(_) => {}
                    None => {
                        marks[id.index()] = Mark::Done;
                        order.push(id);
                        stack.pop();
                    }
                }
            }
        }
        Ok(order)
    }
}
