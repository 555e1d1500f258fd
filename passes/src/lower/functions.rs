//! The functions of domain `ai.zqc`, which a lowered model defines itself: a runtime that registers a kernel of their
//! name runs that, every other one inlines the body. ONNX Runtime then folds the weights to float at load.

use zqc_formats::{FUNCTION_DOMAIN, FUNCTION_VERSION};
use zqc_ir::Op;
use zqc_ir::onnx::proto::{AttributeProto, FunctionProto, NodeProto, OperatorSetIdProto};

/// The least version of the standard operators that the bodies are valid in: there, `Cast` learnt FP8.
pub(crate) const LEAST_OPSET: i64 = 19;
/// The least IR version that knows functions and FP8.
pub(crate) const LEAST_IR_VERSION: i64 = 9;

/// A call of the function of this name.
pub(crate) fn call(function: &str, attributes: Vec<AttributeProto>) -> Op {
    Op::Onnx(Box::new(own_node(function, &[], &[], attributes)))
}

/// A function of our domain over the standard operators of version `opset` and over our own functions.
pub(super) fn function(
    name: String,
    inputs: &[&str],
    outputs: &[&str],
    attributes: &[&str],
    opset: i64,
    body: Vec<NodeProto>,
    doc: String,
) -> FunctionProto {
    let mut opset_import = vec![import("", opset)];
    if body.iter().any(|node| node.domain() == FUNCTION_DOMAIN) {
        opset_import.push(import(FUNCTION_DOMAIN, FUNCTION_VERSION));
    }
    FunctionProto {
        name: Some(name),
        domain: Some(FUNCTION_DOMAIN.to_string()),
        input: owned(inputs),
        output: owned(outputs),
        attribute: owned(attributes),
        node: body,
        opset_import,
        doc_string: Some(doc),
        ..Default::default()
    }
}

/// A node of a body that calls a standard operator.
pub(super) fn node(
    op_type: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_string()),
        input: owned(inputs),
        output: owned(outputs),
        attribute: attributes,
        ..Default::default()
    }
}

/// A node of a body that calls one of our functions.
pub(super) fn own_node(
    function: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto { domain: Some(FUNCTION_DOMAIN.to_string()), ..node(function, inputs, outputs, attributes) }
}

/// A node of a body that yields a constant.
pub(super) fn constant(name: &str, value: AttributeProto) -> NodeProto {
    node("Constant", &[], &[name], vec![value])
}

fn import(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.to_string()), version: Some(version) }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}
