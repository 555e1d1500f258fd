//! Model-local functions: which one a node calls, and in what order they call each other.

use std::collections::HashMap;

use crate::onnx::proto::{FunctionProto, NodeProto};

/// The functions of a model, by domain, name and overload.
#[derive(Debug)]
pub struct Functions<'m> {
    all: &'m [FunctionProto],
    by_name: HashMap<(&'m str, &'m str, &'m str), usize>,
}

impl<'m> Functions<'m> {
    /// Looks up calls in `functions`; where several have one name, the first is called.
    pub fn new(functions: &'m [FunctionProto]) -> Self {
        let mut by_name = HashMap::new();
        for (at, function) in functions.iter().enumerate() {
            by_name.entry((function.domain(), function.name(), function.overload())).or_insert(at);
        }
        Self { all: functions, by_name }
    }

    /// The function that `node` calls; `None` when it is an operator.
    pub fn called(&self, node: &NodeProto) -> Option<&'m FunctionProto> {
        self.index(node).map(|at| &self.all[at])
    }

    fn index(&self, node: &NodeProto) -> Option<usize> {
        self.by_name.get(&(node.domain(), node.op_type(), node.overload())).copied()
    }

    /// Functions that call each other in a cycle, which ONNX forbids: the names on the way from one of them back to itself;
    /// `None` when there are none.
    pub fn cycle(&self) -> Option<Vec<String>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            Unseen,
            Open,
            Done,
        }
        let callees = |at: usize| {
            let mut callees = Vec::new();
            self.collect(&self.all[at].node, &mut callees);
            callees
        };
        let mut marks = vec![Mark::Unseen; self.all.len()];
        for root in 0..self.all.len() {
            let mut stack: Vec<(usize, Vec<usize>)> = Vec::new();
            let mut next = Some(root);
            loop {
                match next {
                    Some(at) if marks[at] == Mark::Unseen => {
                        marks[at] = Mark::Open;
                        stack.push((at, callees(at)));
                    }
                    Some(at) if marks[at] == Mark::Open => {
                        let start = stack.iter().position(|(open, _)| *open == at).unwrap_or(0);
                        let way = stack[start..].iter().map(|(open, _)| *open).chain([at]);
                        return Some(way.map(|at| label(&self.all[at])).collect());
                    }
                    _ => {}
                }
                let Some((at, pending)) = stack.last_mut() else { break };
                next = pending.pop();
                if next.is_none() {
                    marks[*at] = Mark::Done;
                    stack.pop();
                }
            }
        }
        None
    }

    /// Appends the functions that these nodes call, those in bodies included.
    fn collect(&self, nodes: &[NodeProto], callees: &mut Vec<usize>) {
        for node in nodes {
            callees.extend(self.index(node));
            node.bodies().for_each(|body| self.collect(&body.node, callees));
        }
    }
}

/// How messages name a function: `user::Linear`.
pub fn label(function: &FunctionProto) -> String {
    match function.domain() {
        "" => function.name().to_string(),
        domain => format!("{domain}::{}", function.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::Functions;
    use crate::onnx::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto};

    fn node(callee: &str) -> NodeProto {
        NodeProto {
            domain: Some("user".to_string()),
            op_type: Some(callee.to_string()),
            ..Default::default()
        }
    }

    fn function(name: &str, callees: &[&str]) -> FunctionProto {
        FunctionProto {
            domain: Some("user".to_string()),
            name: Some(name.to_string()),
            node: callees.iter().map(|callee| node(callee)).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_circle_is_named_from_function_to_function() {
        let cycle = |functions: &[FunctionProto]| Functions::new(functions).cycle();
        assert_eq!(cycle(&[function("a", &["a"])]), Some(vec!["user::a".to_string(), "user::a".to_string()]));
        let two = [function("start", &["a"]), function("a", &["Relu", "b"]), function("b", &["a"])];
        assert_eq!(cycle(&two).unwrap().join(" "), "user::a user::b user::a");
        let mut inside = function("a", &[]);
        let body = GraphProto { node: vec![node("a")], ..Default::default() };
        let branch = AttributeProto { g: Some(body), ..Default::default() };
        inside.node = vec![NodeProto { attribute: vec![branch], ..node("If") }];
        assert!(cycle(&[inside]).is_some());
        let overloads = [
            FunctionProto { overload: Some("1".to_string()), ..function("a", &["a"]) },
            function("a", &["Relu", "b", "b"]),
            function("b", &["Relu"]),
        ];
        assert_eq!(cycle(&overloads), None);
        let chain: Vec<_> =
            (0..100_000).map(|i| function(&format!("f{i}"), &[&format!("f{}", i + 1)])).collect();
        assert_eq!(cycle(&chain), None);
    }
}
