//! Operators of ONNX Runtime's own domain.

use zqc_ir::Op;
use zqc_ir::onnx::proto::{AttributeProto, NodeProto};

/// The domain of the operators that ONNX Runtime's optimizer and onnxruntime-genai's builder write.
pub(crate) const MICROSOFT: &str = "com.microsoft";

/// The node if it is the operator of ONNX Runtime with this type.
pub(crate) fn as_microsoft<'o>(op: &'o Op, op_type: &str) -> Option<&'o NodeProto> {
    match op {
        Op::Onnx(node) if node.domain() == MICROSOFT && node.op_type() == op_type => Some(node),
        _ => None,
    }
}

/// The operator of ONNX Runtime with this type and these attributes.
pub(crate) fn microsoft(op_type: &str, attributes: Vec<AttributeProto>) -> Op {
    Op::Onnx(Box::new(NodeProto {
        op_type: Some(op_type.to_string()),
        domain: Some(MICROSOFT.to_string()),
        attribute: attributes,
        ..Default::default()
    }))
}
