//! Calls of model-local functions that hold linear layers become the nodes of their bodies.

use std::collections::HashSet;

use zqc_ir::functions::Functions;
use zqc_ir::onnx::proto::{FunctionProto, NodeProto};
use zqc_ir::onnx::{instantiate, node_to_proto};
use zqc_ir::op::is_standard;
use zqc_ir::{Change, Model, NewNode, Op, Patch, opset};

use crate::constant_view::{VIEWS, root};
use crate::lower::own;
use crate::pass::{Context, Pass, PassError};

/// Functions stop being inlined at this many nodes: nested calls can multiply without bound.
const MAX_NODES: usize = 1 << 18;
/// Calls inside calls are inlined to this depth: a chain of functions may be as long as its file.
const MAX_DEPTH: usize = 64;
/// The prefix of names that come out of a function's body.
const PREFIX: &str = "inlined";

/// Inlines every call in the main graph whose function multiplies by a constant matrix, be it an argument of the call or
/// a constant of the body; functions inside it count too. All other calls stay calls, our own among them. The functions of a
/// domain that nothing calls any more go.
///
/// A function that uses the standard operators in another version than the model stays, and
/// [`Observer::layer_kept`](crate::Observer::layer_kept) hears of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct InlineFunctions;

impl Pass for InlineFunctions {
    fn name(&self) -> &'static str {
        "inline_functions"
    }

    fn run(&self, model: &Model, context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        if model.header.functions.is_empty() {
            return Ok(Patch::default());
        }
        let prefix = prefix(model);
        let functions = Functions::new(&model.header.functions);
        let mut inliner = Inliner { model, functions, prefix, calls: 0, nodes: 0, kept: Vec::new() };
        let (mut patch, mut left) = (Patch::default(), Vec::new());
        let mut domains: HashSet<&str> = HashSet::new();
        for id in graph.order()? {
            let node = graph.node(id);
            let (Op::Onnx(op), Ok(proto)) = (&node.op, node_to_proto(graph, id)) else { continue };
            let constant = |value| graph.literal(root(graph, value)).is_some();
            let constants = node.inputs().iter().flatten().filter(|&&value| constant(value));
            let constants = constants.map(|&value| graph.value(value).name.clone()).collect();
            let Some(nodes) = inliner.expand(&proto, &constants, 0) else {
                left.push(proto);
                continue;
            };
            let add = nodes.iter().cloned().map(|inner| NewNode::from_proto(inner, node.source_index()));
            let add = match add.collect() {
                Ok(add) => add,
                Err(error) => {
                    let function = format!("{} has a subgraph that is no valid graph: {error}", op.op_type());
                    inliner.kept.push((proto.name().to_string(), format!("its function {function}")));
                    left.push(proto);
                    continue;
                }
            };
            domains.insert(op.domain());
            left.extend(nodes);
            patch.changes.push(Change {
                remove: vec![id],
                add,
                ..Change::new(format!("{} holds linear layers", graph.label(id)))
            });
        }
        for (call, reason) in inliner.kept {
            context.observer.layer_kept(&call, &reason);
        }
        if !patch.changes.is_empty() {
            patch.opsets =
                inliner.model.header.functions.iter().flat_map(|function| missing(model, function)).collect();
            let called = called_domains(&inliner.functions, &left);
            patch.forget =
                domains.into_iter().filter(|domain| !called.contains(*domain)).map(str::to_string).collect();
            patch.opsets.retain(|(domain, _)| !patch.forget.contains(domain));
        }
        Ok(patch)
    }
}

struct Inliner<'m> {
    model: &'m Model,
    functions: Functions<'m>,
    prefix: String,
    calls: usize,
    nodes: usize,
    /// The calls that stay though they hold layers, with the reason.
    kept: Vec<(String, String)>,
}

impl Inliner<'_> {
    /// What `call` stands for, if it is a call to inline; `constants` are the names of constants among what it reads.
    fn expand(
        &mut self,
        call: &NodeProto,
        constants: &HashSet<String>,
        depth: usize,
    ) -> Option<Vec<NodeProto>> {
        let function = self.functions.called(call).filter(|function| !own::is_ours(function))?;
        if depth >= MAX_DEPTH || self.nodes > MAX_NODES {
            return None;
        }
        self.calls += 1;
        let prefix = format!("{}/{}/", self.prefix, self.calls);
        let body = instantiate(function, call, &prefix);
        self.nodes += body.len();
        let mut constants = constants.clone();
        let (mut holds_layers, mut nodes) = (false, Vec::new());
        for node in body {
            if passes_constants_on(&node, &constants) {
                constants.extend(node.output.iter().cloned());
            }
            match self.expand(&node, &constants, depth + 1) {
                Some(inner) => {
                    holds_layers = true;
                    nodes.extend(inner);
                }
                None => {
                    holds_layers |= multiplies_constants(&node, &constants);
                    nodes.push(node);
                }
            }
        }
        if !holds_layers {
            return None;
        }
        let is_defined = |name: &String| nodes.iter().any(|node| node.output.contains(name));
        if !call.output.iter().filter(|name| !name.is_empty()).all(is_defined) {
            let reason = format!("no node of its function {} yields one of its outputs", function.name());
            self.kept.push((call.name().to_string(), reason));
            return None;
        }
        let mut outputs = HashSet::new();
        let mut yielded = nodes.iter().flat_map(|node| &node.output).filter(|name| !name.is_empty());
        if let Some(twice) = yielded.find(|name| !outputs.insert(name.as_str())) {
            let name = twice.strip_prefix(&prefix).unwrap_or(twice);
            let reason = format!("two nodes of its function {} yield \"{name}\"", function.name());
            self.kept.push((call.name().to_string(), reason));
            return None;
        }
        if let Some(name) = undefined(&nodes, &prefix) {
            let reason =
                format!("its function {} reads \"{name}\" before a node in it defines it", function.name());
            self.kept.push((call.name().to_string(), reason));
            return None;
        }
        let (theirs, ours) = (opset::version(&function.opset_import, ""), self.model.opset());
        if theirs.is_some_and(|theirs| theirs != ours) {
            let reason = format!("its function {} uses another opset than the model", function.name());
            self.kept.push((call.name().to_string(), reason));
            return None;
        }
        Some(nodes)
    }
}

/// A value that a node reads before a node defines it, in the order that ONNX asks for: its name in the function, whose own values
/// have this prefix. Other values than those are the caller's, unless a node of the function defines them.
fn undefined<'n>(nodes: &'n [NodeProto], prefix: &str) -> Option<&'n str> {
    fn find<'n>(
        nodes: &'n [NodeProto],
        inner: impl Fn(&str) -> bool + Copy,
        mut defined: HashSet<&'n str>,
    ) -> Option<&'n str> {
        let is_missing = |defined: &HashSet<&str>, name: &str| inner(name) && !defined.contains(name);
        for node in nodes {
            if let Some(name) = node.input.iter().find(|name| is_missing(&defined, name)) {
                return Some(name);
            }
            for body in node.bodies() {
                let mut defined = defined.clone();
                defined.extend(body.input.iter().map(|input| input.name()));
                defined.extend(body.initializer.iter().map(|tensor| tensor.name()));
                if let Some(name) = find(&body.node, inner, defined.clone()) {
                    return Some(name);
                }
                defined.extend(body.node.iter().flat_map(|node| &node.output).map(String::as_str));
                if let Some(output) = body.output.iter().find(|output| is_missing(&defined, output.name())) {
                    return Some(output.name());
                }
            }
            defined.extend(node.output.iter().map(String::as_str));
        }
        None
    }
    let outputs = nodes.iter().flat_map(|node| &node.output).map(String::as_str);
    let outputs: HashSet<&str> = outputs.filter(|name| !name.is_empty()).collect();
    let name = find(nodes, |name| name.starts_with(prefix) || outputs.contains(name), HashSet::new())?;
    Some(name.strip_prefix(prefix).unwrap_or(name))
}

/// Whether the result is constant because the input is, or because the node holds it.
fn passes_constants_on(node: &NodeProto, constants: &HashSet<String>) -> bool {
    let view = is_standard(node.domain()) && VIEWS.contains(&node.op_type());
    view && node.input.iter().all(|name| constants.contains(name))
}

/// Whether the node, or one in a body of it, is a product with a constant on the right.
fn multiplies_constants(node: &NodeProto, constants: &HashSet<String>) -> bool {
    let product = is_standard(node.domain()) && ["MatMul", "Gemm", "Conv"].contains(&node.op_type());
    if product && node.input.get(1).is_some_and(|name| constants.contains(name)) {
        return true;
    }
    node.bodies().any(|body| {
        let mut constants = constants.clone();
        constants.extend(body.initializer.iter().map(|tensor| tensor.name().to_string()));
        body.node.iter().any(|inner| {
            if passes_constants_on(inner, &constants) {
                constants.extend(inner.output.iter().cloned());
            }
            multiplies_constants(inner, &constants)
        })
    })
}

/// A prefix that no value of the model has.
fn prefix(model: &Model) -> String {
    let names: Vec<&str> = model.graph.values().map(|(_, value)| value.name.as_str()).collect();
    zqc_ir::graph::fresh_name(PREFIX, |candidate| {
        names.iter().any(|name| name.strip_prefix(candidate).is_some_and(|rest| rest.starts_with('/')))
    })
}

/// The imports of a function that the model lacks.
fn missing(model: &Model, function: &FunctionProto) -> Vec<(String, i64)> {
    let known = |domain: &str| {
        is_standard(domain) || model.header.opset_import.iter().any(|import| import.domain() == domain)
    };
    let imports = function.opset_import.iter().filter(|import| !known(import.domain()));
    imports.map(|import| (import.domain().to_string(), import.version())).collect()
}

/// The domains that these nodes use, and the functions that they call.
fn called_domains(functions: &Functions, nodes: &[NodeProto]) -> HashSet<String> {
    let mut domains = HashSet::new();
    let mut open: Vec<&NodeProto> = nodes.iter().collect();
    let mut seen: HashSet<(&str, &str, &str)> = HashSet::new();
    while let Some(node) = open.pop() {
        domains.insert(node.domain().to_string());
        open.extend(node.bodies().flat_map(|body| &body.node));
        if let Some(function) = functions.called(node)
            && seen.insert((function.domain(), function.name(), function.overload()))
        {
            open.extend(&function.node);
        }
    }
    domains
}
