//! Small ONNX models, written down value by value.

use zqc_ir::onnx::from_proto;
use zqc_ir::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use zqc_ir::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use zqc_ir::tensor::{DataType, bits};
use zqc_ir::{Model, Tensor, onnx};

/// A model in the making. Attributes, names, metadata and more outputs go to the node that was added last.
#[derive(Clone)]
pub struct Builder {
    pub proto: ModelProto,
}

impl Builder {
    pub fn new() -> Self {
        let graph = GraphProto { name: Some("small".to_string()), ..Default::default() };
        let opset = OperatorSetIdProto { domain: None, version: Some(20) };
        Self {
            proto: ModelProto {
                ir_version: Some(10),
                opset_import: vec![opset],
                graph: Some(graph),
                ..Default::default()
            },
        }
    }

    /// `dims` are symbols or numbers, blanks between them.
    pub fn input(mut self, name: &str, dtype: DataType, dims: &str) -> Self {
        self.graph().input.push(info(name, dtype, dims));
        self
    }

    pub fn output(mut self, name: &str) -> Self {
        self.graph().output.push(ValueInfoProto { name: Some(name.to_string()), ..Default::default() });
        self
    }

    /// A constant of zeros.
    pub fn constant(mut self, name: &str, dtype: DataType, dims: &[i64]) -> Self {
        let elements: i64 = dims.iter().product();
        let bytes = elements as usize * bits(dtype).unwrap() / 8;
        self.graph().initializer.push(TensorProto {
            name: Some(name.to_string()),
            data_type: Some(dtype as i32),
            dims: dims.to_vec(),
            raw_data: Some(vec![0; bytes].into()),
            ..Default::default()
        });
        self
    }

    /// A constant of distinct values.
    pub fn weight(mut self, name: &str, dtype: DataType, dims: &[usize]) -> Self {
        let elements: usize = dims.iter().product();
        let values = (0..elements).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect();
        let tensor = Tensor::from_f32_as(dtype, dims, values).unwrap();
        self.graph().initializer.push(tensor.to_proto(name));
        self
    }

    pub fn initializer(mut self, tensor: TensorProto) -> Self {
        self.graph().initializer.push(tensor);
        self
    }

    /// A vector of integers: a shape, or axes.
    pub fn integers(mut self, name: &str, values: &[i64]) -> Self {
        let tensor = Tensor::from_i64(&[values.len()], values.to_vec()).unwrap();
        self.graph().initializer.push(tensor.to_proto(name));
        self
    }

    pub fn opset(mut self, version: i64) -> Self {
        self.proto.opset_import[0].version = Some(version);
        self
    }

    /// Imports version 1 of the operators of another domain.
    pub fn import(mut self, domain: &str) -> Self {
        let import = OperatorSetIdProto { domain: Some(domain.to_string()), version: Some(1) };
        self.proto.opset_import.push(import);
        self
    }

    pub fn node(mut self, op_type: &str, inputs: &[&str], output: &str) -> Self {
        self.graph().node.push(NodeProto {
            op_type: Some(op_type.to_string()),
            input: inputs.iter().map(|name| name.to_string()).collect(),
            output: vec![output.to_string()],
            ..Default::default()
        });
        self
    }

    /// One more output of the node.
    pub fn and_output(mut self, name: &str) -> Self {
        self.last().output.push(name.to_string());
        self
    }

    pub fn with(mut self, attribute: AttributeProto) -> Self {
        self.last().attribute.push(attribute);
        self
    }

    /// Puts the node's operator in another domain.
    pub fn of(mut self, domain: &str) -> Self {
        self.last().domain = Some(domain.to_string());
        self
    }

    pub fn named(mut self, name: &str) -> Self {
        self.last().name = Some(name.to_string());
        self
    }

    /// What the dynamo exporter of PyTorch notes of a node's place.
    pub fn scoped(mut self, scopes: &str) -> Self {
        self.last().metadata_props.push(StringStringEntryProto {
            key: Some("pkg.torch.onnx.name_scopes".to_string()),
            value: Some(scopes.to_string()),
        });
        self
    }

    pub fn build(&self) -> Model {
        from_proto(self.proto.clone()).unwrap()
    }

    fn graph(&mut self) -> &mut GraphProto {
        self.proto.graph.get_or_insert_default()
    }

    fn last(&mut self) -> &mut NodeProto {
        self.graph().node.last_mut().unwrap()
    }
}

/// The model as it would be written.
pub fn written(model: &Model) -> ModelProto {
    onnx::to_proto(model).unwrap()
}

pub fn info(name: &str, dtype: DataType, dims: &str) -> ValueInfoProto {
    let dim = dims.split_whitespace().map(|dim| Dimension {
        value: Some(match dim.parse() {
            Ok(size) => dimension::Value::DimValue(size),
            Err(_) => dimension::Value::DimParam(dim.to_string()),
        }),
        ..Default::default()
    });
    let tensor = type_proto::Tensor {
        elem_type: Some(dtype as i32),
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.to_string()), r#type: Some(r#type), ..Default::default() }
}
