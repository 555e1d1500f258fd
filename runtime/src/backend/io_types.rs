//! The declared inputs and outputs of a subgraph, with their element types.

use std::collections::HashMap;

use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::onnx::proto::{ModelProto, ValueInfoProto, type_proto};

use super::error::BackendError;

/// Declared inputs and outputs with their element types, `None` where the type is not declared.
pub struct IoTypes {
    inputs: HashMap<String, Option<DataType>>,
    outputs: HashMap<String, Option<DataType>>,
}

impl IoTypes {
    /// Reads the graph's declarations.
    pub fn of(model: &ModelProto) -> Self {
        fn declared(values: &[ValueInfoProto]) -> HashMap<String, Option<DataType>> {
            values.iter().map(|value| (value.name().to_owned(), element_type(value))).collect()
        }
        match &model.graph {
            Some(graph) => Self { inputs: declared(&graph.input), outputs: declared(&graph.output) },
            None => Self { inputs: HashMap::new(), outputs: HashMap::new() },
        }
    }

    /// The declared type of an input.
    pub fn input(&self, name: &str) -> Result<Option<DataType>, BackendError> {
        self.inputs.get(name).copied().ok_or_else(|| BackendError::UnknownInput { name: name.into() })
    }

    /// The declared type of an output.
    pub fn output(&self, name: &str) -> Result<Option<DataType>, BackendError> {
        self.outputs.get(name).copied().ok_or_else(|| BackendError::UnknownOutput { name: name.into() })
    }
}

/// The element type of a tensor declaration.
pub fn element_type(value: &ValueInfoProto) -> Option<DataType> {
    match value.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => {
            DataType::try_from(tensor.elem_type()).ok().filter(|&t| t != DataType::Undefined)
        }
        _ => None,
    }
}
