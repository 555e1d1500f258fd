//! What ONNX and ONNX Runtime ask of a model beyond what it takes to read it here: a model is checked once more before it
//! replaces another.

use std::collections::{BTreeSet, HashSet};

use super::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
use crate::functions::{Functions, label};
use crate::opset;
use crate::verify::Fault;

/// Every fault of `model` that makes a runtime refuse it:
///
/// * a domain that is imported more than once, or that a call of a model-local function needs and that is not imported,
/// * two nodes of one name in a graph or a function,
/// * a value that is defined twice, or read before it is defined, in a graph, in the bodies in it or in a function,
/// * two functions of one name, functions that call each other in a cycle, calls of a function that is not there, with more
///   inputs or outputs than it has.
pub fn faults(model: &ModelProto) -> Vec<Fault> {
    let mut check =
        Check { functions: Functions::new(&model.functions), domains: HashSet::new(), faults: Vec::new() };
    check.domains = model.functions.iter().map(|function| function.domain()).collect();
    check.imports(&model.opset_import, "opset imports");
    if let Some(cycle) = check.functions.cycle() {
        check.fault("functions", format!("they call each other in a cycle: {}", cycle.join(" -> ")));
    }
    let mut seen = HashSet::new();
    for function in &model.functions {
        let place = format!("function {}", label(function));
        if !seen.insert((function.domain(), function.name(), function.overload())) {
            check.fault(&place, "it is defined twice".to_string());
        }
        check.imports(&function.opset_import, &format!("opset imports of {place}"));
        let mut scopes = Scopes::default();
        scopes.enter(function.input.iter().map(String::as_str));
        check.nodes(&function.node, &function.opset_import, &place, &mut scopes);
        check.results(function.output.iter().map(String::as_str), &place, &scopes);
    }
    if let Some(graph) = &model.graph {
        check.graph(graph, &model.opset_import, "graph", &mut Scopes::default());
    }
    check.faults
}

struct Check<'m> {
    functions: Functions<'m>,
    /// The domains in which the model defines functions.
    domains: HashSet<&'m str>,
    faults: Vec<Fault>,
}

impl<'m> Check<'m> {
    fn fault(&mut self, place: &str, message: String) {
        self.faults.push(Fault { place: place.to_string(), message });
    }

    fn imports(&mut self, imports: &[OperatorSetIdProto], place: &str) {
        for (domain, _) in opset::repeated(imports) {
            let of_domain = imports.iter().filter(|import| opset::is_same_domain(import.domain(), &domain));
            let versions: Vec<String> = of_domain.map(|import| import.version().to_string()).collect();
            self.fault(place, format!("domain \"{domain}\" is imported in versions {}", versions.join(", ")));
        }
    }

    fn graph(
        &mut self,
        graph: &'m GraphProto,
        imports: &[OperatorSetIdProto],
        place: &str,
        scopes: &mut Scopes<'m>,
    ) {
        let inputs: HashSet<&str> = graph.input.iter().map(|input| input.name()).collect();
        let constants = graph.initializer.iter().map(|tensor| tensor.name());
        let sparse = graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref());
        let constants = constants.chain(sparse.map(|values| values.name()));
        // A constant behind an input is its default.
        let constants: Vec<&str> = constants.filter(|name| !inputs.contains(name)).collect();
        let twice = scopes.enter(graph.input.iter().map(|input| input.name()).chain(constants));
        twice.into_iter().for_each(|name| self.fault(place, format!("it defines \"{name}\" twice")));
        self.nodes(&graph.node, imports, place, scopes);
        self.results(graph.output.iter().map(|output| output.name()), place, scopes);
        scopes.leave();
    }

    fn nodes(
        &mut self,
        nodes: &'m [NodeProto],
        imports: &[OperatorSetIdProto],
        place: &str,
        scopes: &mut Scopes<'m>,
    ) {
        let (mut named, mut repeated) = (HashSet::new(), BTreeSet::new());
        for node in nodes {
            if !node.name().is_empty() && !named.insert(node.name()) {
                repeated.insert(node.name());
            }
            let output = node.output.first().map_or("", String::as_str);
            let here = format!(
                "{} \"{}\" of {place}",
                node.op_type(),
                if node.name().is_empty() { output } else { node.name() }
            );
            for name in node.input.iter().filter(|name| !name.is_empty() && !scopes.sees(name)) {
                self.fault(&here, format!("it reads \"{name}\", which nothing before it defines"));
            }
            self.call(node, imports, &here);
            for body in node.bodies() {
                self.graph(body, imports, &format!("a body of {here}"), scopes);
            }
            for name in node.output.iter().filter(|name| !name.is_empty()) {
                if !scopes.define(name) {
                    self.fault(&here, format!("it defines \"{name}\", which is defined already"));
                }
            }
        }
        for name in repeated {
            self.fault(place, format!("it has several nodes named \"{name}\""));
        }
    }

    /// Checks a node as a call of a function, if it is one.
    fn call(&mut self, node: &NodeProto, imports: &[OperatorSetIdProto], here: &str) {
        let Some(function) = self.functions.called(node) else {
            if !node.domain().is_empty() && self.domains.contains(node.domain()) {
                self.fault(
                    here,
                    format!("the model defines no function {} of domain {}", node.op_type(), node.domain()),
                );
            }
            return;
        };
        if opset::version(imports, node.domain()).is_none() {
            self.fault(here, format!("its domain \"{}\" is not imported", node.domain()));
        }
        let [given, wanted] = [node.input.len(), function.input.len()];
        if given > wanted {
            self.fault(here, format!("it has {given} inputs, and its function takes {wanted}"));
        }
        let [given, wanted] = [node.output.len(), function.output.len()];
        if given > wanted {
            self.fault(here, format!("it has {given} outputs, and its function yields {wanted}"));
        }
    }

    fn results<'n>(&mut self, names: impl Iterator<Item = &'n str>, place: &str, scopes: &Scopes) {
        for name in names.filter(|name| !scopes.sees(name)) {
            self.fault(place, format!("it yields \"{name}\", which nothing defines"));
        }
    }
}

/// The values that are defined so far, graph by graph from the outermost to the innermost.
#[derive(Default)]
struct Scopes<'m>(Vec<HashSet<&'m str>>);

impl<'m> Scopes<'m> {
    /// Enters a graph with these inputs and constants, which may hide values around it; those that are there twice.
    fn enter(&mut self, names: impl Iterator<Item = &'m str>) -> Vec<&'m str> {
        let mut scope = HashSet::new();
        let twice = names.filter(|name| !scope.insert(*name)).collect();
        self.0.push(scope);
        twice
    }

    fn leave(&mut self) {
        self.0.pop();
    }

    fn sees(&self, name: &str) -> bool {
        self.0.iter().any(|scope| scope.contains(name))
    }

    /// Defines the result of a node; says whether the name was free, here and around.
    fn define(&mut self, name: &'m str) -> bool {
        let free = !self.sees(name);
        self.0.last_mut().is_some_and(|scope| scope.insert(name)) && free
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{AttributeProto, FunctionProto, TensorProto, ValueInfoProto};
    use super::*;

    fn import(domain: &str, version: i64) -> OperatorSetIdProto {
        OperatorSetIdProto { domain: Some(domain.to_string()), version: Some(version) }
    }

    fn node(domain: &str, op_type: &str, name: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            domain: Some(domain.to_string()),
            op_type: Some(op_type.to_string()),
            name: Some(name.to_string()),
            input: inputs.iter().map(|input| input.to_string()).collect(),
            output: vec![output.to_string()],
            ..Default::default()
        }
    }

    fn info(name: &str) -> ValueInfoProto {
        ValueInfoProto { name: Some(name.to_string()), ..Default::default() }
    }

    fn branch(nodes: Vec<NodeProto>, output: &str) -> AttributeProto {
        let body = GraphProto { node: nodes, output: vec![info(output)], ..Default::default() };
        AttributeProto { g: Some(body), ..Default::default() }
    }

    /// `y = if x { relu(x) } else { neg(x) }` and a call of a function that calls another.
    fn sound() -> ModelProto {
        let function = |name: &str, callee: &str, domain: &str| FunctionProto {
            domain: Some("user".to_string()),
            name: Some(name.to_string()),
            input: vec!["a".to_string()],
            output: vec!["b".to_string()],
            node: vec![node(domain, callee, "inner", &["a"], "b")],
            opset_import: vec![import("", 20), import("user", 1)],
            ..Default::default()
        };
        let attribute = vec![
            branch(vec![node("", "Relu", "r", &["x"], "t")], "t"),
            branch(vec![node("", "Neg", "r", &["x"], "e")], "e"),
        ];
        let graph = GraphProto {
            input: vec![info("x"), info("d")],
            initializer: vec![TensorProto { name: Some("d".to_string()), ..Default::default() }],
            node: vec![
                node("user", "F", "r", &["x"], "z"),
                NodeProto { attribute, ..node("", "If", "choice", &["z"], "y") },
            ],
            output: vec![info("y")],
            ..Default::default()
        };
        ModelProto {
            opset_import: vec![import("", 20), import("user", 1)],
            functions: vec![function("F", "G", "user"), function("G", "Relu", "")],
            graph: Some(graph),
            ..Default::default()
        }
    }

    fn broken(edit: impl Fn(&mut ModelProto, &mut GraphProto)) -> Vec<String> {
        let mut model = sound();
        let mut graph = model.graph.take().unwrap();
        edit(&mut model, &mut graph);
        model.graph = Some(graph);
        faults(&model).into_iter().map(|fault| format!("{}: {}", fault.place, fault.message)).collect()
    }

    #[test]
    fn a_sound_model_has_no_faults() {
        assert_eq!(broken(|_, _| ()), [""; 0]);
    }

    #[test]
    fn every_kind_of_fault_is_named() {
        type Edit = fn(&mut ModelProto, &mut GraphProto);
        let cases: [(Edit, &str); 16] = [
            (|_, graph| graph.node[1].name = Some("r".into()), "graph: it has several nodes named \"r\""),
            (
                |model, _| model.opset_import.push(import("ai.onnx", 17)),
                "opset imports: domain \"\" is imported in versions 20, 17",
            ),
            (
                |model, _| model.opset_import.push(import("user", 1)),
                "opset imports: domain \"user\" is imported in versions 1, 1",
            ),
            (
                |model, _| model.functions[1].opset_import.push(import("", 18)),
                "opset imports of function user::G: domain \"\" is imported in versions 20, 18",
            ),
            (
                |model, _| drop(model.opset_import.pop()),
                "F \"r\" of graph: its domain \"user\" is not imported",
            ),
            (
                |model, _| drop(model.functions[0].opset_import.pop()),
                "G \"inner\" of function user::F: its domain \"user\" is not imported",
            ),
            (
                |model, _| model.functions[1].node[0] = node("user", "F", "inner", &["a"], "b"),
                "functions: they call each other in a cycle: user::F -> user::G -> user::F",
            ),
            (
                |model, _| model.functions.push(model.functions[0].clone()),
                "function user::F: it is defined twice",
            ),
            (
                |model, _| drop(model.functions.pop()),
                "G \"inner\" of function user::F: the model defines no function G of domain user",
            ),
            (
                |model, _| model.functions[1].node.push(node("", "Neg", "inner", &["b"], "c")),
                "function user::G: it has several nodes named \"inner\"",
            ),
            (
                |model, _| model.functions[1].output[0] = "c".into(),
                "function user::G: it yields \"c\", which nothing defines",
            ),
            (
                |_, graph| graph.node.swap(0, 1),
                "If \"choice\" of graph: it reads \"z\", which nothing before it defines",
            ),
            (
                |_, graph| graph.node[1].output[0] = "z".into(),
                "If \"choice\" of graph: it defines \"z\", which is defined already",
            ),
            (
                |_, graph| graph.node[0].input.push("x".into()),
                "F \"r\" of graph: it has 2 inputs, and its function takes 1",
            ),
            (
                |_, graph| graph.node[0].output.push("w".into()),
                "F \"r\" of graph: it has 2 outputs, and its function yields 1",
            ),
            (
                |_, graph| {
                    let body = graph.node[1].attribute[0].g.as_mut().unwrap();
                    body.node[0].output[0] = "z".into();
                    body.output[0] = info("z");
                },
                "Relu \"r\" of a body of If \"choice\" of graph: it defines \"z\", which is defined already",
            ),
        ];
        for (edit, expected) in cases {
            let found = broken(edit);
            assert_eq!(found.first().map(String::as_str), Some(expected), "{found:?}");
        }
    }

    #[test]
    fn a_constant_of_a_body_may_hide_a_value_around_it() {
        let found = broken(|_, graph| {
            let body = graph.node[1].attribute[0].g.as_mut().unwrap();
            body.initializer.push(TensorProto { name: Some("z".to_string()), ..Default::default() });
            body.node[0].input[0] = "z".into();
        });
        assert_eq!(found, [""; 0]);
    }
}
