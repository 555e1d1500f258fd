//! Names for the values that a patch adds.

use std::cell::RefCell;
use std::collections::HashSet;

use crate::graph::{Graph, fresh_name};

/// Makes names that no value of a graph has, each once: the graph does not know them before the patch is applied.
#[derive(Debug)]
pub struct FreshNames<'g> {
    graph: &'g Graph,
    issued: RefCell<HashSet<String>>,
}

impl<'g> FreshNames<'g> {
    /// No name is made yet.
    pub fn new(graph: &'g Graph) -> Self {
        Self { graph, issued: RefCell::default() }
    }

    /// A name made from `hint` that no value has and that was not made before.
    pub fn fresh(&self, hint: &str) -> String {
        let mut issued = self.issued.borrow_mut();
        let name = fresh_name(hint, |name| self.graph.is_taken(name) || issued.contains(name));
        issued.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::FreshNames;
    use crate::graph::Graph;

    #[test]
    fn no_name_is_made_twice() {
        let graph = Graph::default();
        let names = FreshNames::new(&graph);
        assert_eq!(["w", "w", "w_1", "w"].map(|hint| names.fresh(hint)), ["w", "w_1", "w_1_1", "w_2"]);
    }
}
