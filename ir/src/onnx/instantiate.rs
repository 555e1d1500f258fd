//! A call of a model-local function, written out as the nodes of its body.

use std::collections::HashMap;

use super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto};

/// The body of `function` as it reads in place of `call`: formal names become the caller's, `prefix` goes before all names
/// of the body's own, and attributes that refer to the caller's get their values.
///
/// The first node without a name that is no constant takes the call's, others follow it: `call/inner`, or by their operator
/// `call/MatMul`.
pub fn instantiate(function: &FunctionProto, call: &NodeProto, prefix: &str) -> Vec<NodeProto> {
    let call = Call::new(function, call, prefix);
    let stands_for_call = |inner: &NodeProto| inner.name().is_empty() && inner.op_type() != "Constant";
    let first_unnamed = function.node.iter().position(stands_for_call);
    let named = function.node.iter().enumerate().map(|(at, inner)| match inner.name() {
        "" if Some(at) == first_unnamed => call.instantiate(inner, ""),
        "" => call.instantiate(inner, inner.op_type()),
        name => call.instantiate(inner, name),
    });
    let body: Vec<NodeProto> = named.collect();
    body.into_iter().chain(call.forwards).collect()
}

struct Call<'a> {
    function: &'a FunctionProto,
    node: &'a NodeProto,
    /// The caller's name of each formal input and output.
    names: HashMap<&'a str, String>,
    prefix: &'a str,
    /// Identities for formal outputs that another formal name already stands for.
    forwards: Vec<NodeProto>,
}

impl<'a> Call<'a> {
    fn new(function: &'a FunctionProto, node: &'a NodeProto, prefix: &'a str) -> Self {
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

    /// A node of the body, called `name` in it, as it reads in the caller's graph.
    fn instantiate(&self, inner: &NodeProto, name: &str) -> NodeProto {
        let mut node = inner.clone();
        self.bind(&mut node);
        node.name = Some(match (self.node.name(), name) {
            (call, "") => call.to_string(),
            ("", _) => inner.name().to_string(),
            (call, name) => format!("{call}/{name}"),
        });
        node
    }

    /// Renames what a node reads and writes and fills in the attributes that refer to the call's.
    fn bind(&self, node: &mut NodeProto) {
        node.input.iter_mut().chain(&mut node.output).for_each(|name| self.rename(name));
        let attributes = std::mem::take(&mut node.attribute);
        node.attribute = attributes.into_iter().filter_map(|attribute| self.attribute(attribute)).collect();
        for attribute in &mut node.attribute {
            attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|body| self.bind_body(body));
        }
    }

    fn bind_body(&self, body: &mut GraphProto) {
        let values = body.input.iter_mut().chain(&mut body.output).chain(&mut body.value_info);
        let initializers = body.initializer.iter_mut().map(|tensor| &mut tensor.name);
        let names = values.map(|value| &mut value.name).chain(initializers);
        names.flatten().for_each(|name| self.rename(name));
        body.node.iter_mut().for_each(|inner| self.bind(inner));
    }

    fn rename(&self, name: &mut String) {
        match self.names.get(name.as_str()) {
            Some(actual) => name.clone_from(actual),
            None if name.is_empty() => {}
            None => name.insert_str(0, self.prefix),
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
