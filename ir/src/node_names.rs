//! Names of nodes. Unlike those of values they may be left out, but ONNX Runtime refuses a graph that has one twice.

use std::collections::{HashMap, HashSet};

/// The names of the nodes of one graph.
#[derive(Debug, Default)]
pub struct NodeNames {
    taken: HashSet<String>,
    /// The last number behind a name that was taken.
    numbers: HashMap<String, u64>,
}

impl NodeNames {
    /// Notes the name of a node that keeps it.
    pub fn take(&mut self, name: &str) {
        self.taken.insert(name.to_string());
    }

    /// `name`, or with a number behind it where another node has it. A node without a name stays without.
    pub fn issue(&mut self, name: &str) -> String {
        let mut issued = name.to_string();
        while !issued.is_empty() && !self.taken.insert(issued.clone()) {
            let number = self.numbers.entry(name.to_string()).or_default();
            *number += 1;
            issued = format!("{name}_{number}");
        }
        issued
    }
}

#[cfg(test)]
mod tests {
    use super::NodeNames;

    #[test]
    fn every_name_is_issued_once_and_no_name_stays_none() {
        let mut names = NodeNames::default();
        names.take("fc_1");
        assert_eq!(
            ["fc", "fc", "", "fc", "", "fc_1"].map(|name| names.issue(name)),
            ["fc", "fc_2", "", "fc_3", "", "fc_1_1"]
        );
    }
}
