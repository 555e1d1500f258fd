//! Replaces calls of model-local functions by their bodies, for back ends that know no functions.

use std::collections::HashMap;

use prost::Message;
use zqc_ir::onnx::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};

use super::visit;

/// Inlining stops at this many nodes and calls: nested calls can multiply without bound.
const MAX_NODES: usize = 1 << 18;
/// It stops at this many bytes of names and attributes, payloads that are shared left out.
const MAX_BYTES: usize = 1 << 28;
/// Calls inside of calls; every one takes a piece of the stack.
const MAX_DEPTH: usize = 64;

/// Inlines every function of `model` and drops the definitions.
///
/// # Errors
/// The reason, when a function calls itself or the calls go beyond the limits above.
pub fn inline_functions(model: &mut ModelProto) -> Result<(), String> {
    let functions = std::mem::take(&mut model.functions);
    let Some(graph) = &mut model.graph else { return Ok(()) };
    for import in functions.iter().flat_map(|function| &function.opset_import) {
        if !model.opset_import.iter().any(|present| present.domain() == import.domain()) {
            model.opset_import.push(import.clone());
        }
    }
    let by_name = functions.iter().map(|f| ((f.domain(), f.name(), f.overload()), f)).collect();
    let mut inliner = Inliner { functions: by_name, calls: 0, nodes: 0, bytes: 0 };
    inliner.graph(graph, 0)
}

struct Inliner<'a> {
    /// Functions by domain, name and overload.
    functions: HashMap<(&'a str, &'a str, &'a str), &'a FunctionProto>,
    calls: usize,
    nodes: usize,
    bytes: usize,
}

impl<'a> Inliner<'a> {
    fn check_size(&self) -> Result<(), String> {
        if self.nodes + self.calls > MAX_NODES || self.bytes > MAX_BYTES {
            return Err(format!("its functions expand to more than {MAX_NODES} nodes or {MAX_BYTES} bytes"));
        }
        Ok(())
    }

    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<(), String> {
        let nodes = std::mem::take(&mut graph.node);
        nodes.into_iter().try_for_each(|node| self.node(node, depth, &mut graph.node))
    }

    /// Appends `node`, or what it calls, to `out`; `depth` counts the calls around it.
    fn node(&mut self, mut node: NodeProto, depth: usize, out: &mut Vec<NodeProto>) -> Result<(), String> {
        let Some(&function) = self.functions.get(&(node.domain(), node.op_type(), node.overload())) else {
            self.nodes += 1;
            self.check_size()?;
            for subgraph in visit::subgraphs(&mut node) {
                self.graph(subgraph, depth)?;
            }
            out.push(node);
            return Ok(());
        };
        if depth == self.functions.len() {
            return Err(format!("function {:?} calls itself", function.name()));
        }
        if depth == MAX_DEPTH {
            return Err(format!("its functions call each other more than {MAX_DEPTH} deep"));
        }
        self.calls += 1;
        let mut call = Call::new(function, &node, self.calls);
        let mut body = Vec::with_capacity(function.node.len());
        for inner in &function.node {
            let inner = call.instantiate(inner);
            self.bytes += bytes(&inner);
            self.check_size()?;
            body.push(inner);
        }
        body.into_iter().chain(call.forwards).try_for_each(|inner| self.node(inner, depth + 1, out))
    }
}

/// What a node takes of memory of its own.
fn bytes(node: &NodeProto) -> usize {
    let tensors = node.attribute.iter().filter_map(|attribute| attribute.t.as_ref());
    let shared = tensors.filter_map(|tensor| tensor.raw_data.as_ref()).map(|raw| raw.len());
    node.encoded_len() - shared.sum::<usize>()
}

/// One call: how names and attributes of the function's body read at the place of the call.
struct Call<'a> {
    function: &'a FunctionProto,
    node: &'a NodeProto,
    /// The caller's name of each formal input and output.
    names: HashMap<&'a str, String>,
    /// Put before every name that is the body's own.
    prefix: String,
    /// Identities for formal outputs that another formal name already stands for.
    forwards: Vec<NodeProto>,
}

impl<'a> Call<'a> {
    fn new(function: &'a FunctionProto, node: &'a NodeProto, number: usize) -> Self {
        let prefix = format!("{}/{number}/", function.name());
        let actual = |names: &[String], i: usize| names.get(i).cloned().unwrap_or_default();
        let mut names = HashMap::new();
        for (i, formal) in function.input.iter().enumerate() {
            names.insert(formal.as_str(), actual(&node.input, i));
        }
        let mut forwards = Vec::new();
        for (i, formal) in function.output.iter().enumerate() {
            let output = actual(&node.output, i);
            match names.get(formal.as_str()) {
                Some(_) if output.is_empty() => {}
                Some(source) => forwards.push(NodeProto {
                    op_type: Some("Identity".into()),
                    input: vec![source.clone()],
                    output: vec![output],
                    ..Default::default()
                }),
                None if output.is_empty() => {}
                None => {
                    names.insert(formal, output);
                }
            }
        }
        Self { function, node, names, prefix, forwards }
    }

    /// A node of the body as it reads in the caller's graph.
    fn instantiate(&mut self, inner: &NodeProto) -> NodeProto {
        let mut node = inner.clone();
        self.bind(&mut node);
        node.name = Some(format!("{}/{}", self.node.name(), inner.name()));
        node
    }

    /// Renames what a node reads and writes and fills in the attributes that refer to the call's.
    fn bind(&mut self, node: &mut NodeProto) {
        node.input.iter_mut().chain(&mut node.output).for_each(|name| self.rename(name));
        let attributes = std::mem::take(&mut node.attribute);
        node.attribute = attributes.into_iter().filter_map(|attribute| self.attribute(attribute)).collect();
        for subgraph in visit::subgraphs(node) {
            let values =
                subgraph.input.iter_mut().chain(&mut subgraph.output).chain(&mut subgraph.value_info);
            let initializers = subgraph.initializer.iter_mut().map(|tensor| &mut tensor.name);
            values
                .map(|value| &mut value.name)
                .chain(initializers)
                .flatten()
                .for_each(|name| self.rename(name));
            subgraph.node.iter_mut().for_each(|inner| self.bind(inner));
        }
    }

    fn rename(&self, name: &mut String) {
        match self.names.get(name.as_str()) {
            Some(actual) => name.clone_from(actual),
            None if name.is_empty() => {}
            None => name.insert_str(0, &self.prefix),
        }
    }

    /// The attribute itself, or what it refers to: the call's attribute, else the function's default, else none.
    fn attribute(&self, attribute: AttributeProto) -> Option<AttributeProto> {
        let wanted = attribute.ref_attr_name();
        if wanted.is_empty() {
            return Some(attribute);
        }
        let mut candidates = self.node.attribute.iter().chain(&self.function.attribute_proto);
        let value = candidates.find(|candidate| candidate.name() == wanted)?;
        Some(AttributeProto { name: attribute.name.clone(), ..value.clone() })
    }
}
