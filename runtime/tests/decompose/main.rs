//! Operators of ONNX Runtime's own domain in the forms that rten does not know: what stands for them gives what ONNX Runtime
//! gives, or, where its CPU does not know them either, what their definition says.

mod attention;
mod grouped_queries;
mod layers;
mod normalization;

use zqc_ir::Tensor;
use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_shape_proto, type_proto,
};
use zqc_ir::op::attribute;
use zqc_runtime::{Array, ArrayData, Subgraph, backend};

/// A node with what it is given, input by input; `None` for one that is left out.
struct Case {
    op_type: &'static str,
    inputs: Vec<Option<Array>>,
    outputs: Vec<&'static str>,
    attributes: Vec<AttributeProto>,
}

impl Case {
    fn new(op_type: &'static str, attributes: Vec<AttributeProto>) -> Self {
        Self { op_type, inputs: Vec::new(), outputs: vec!["y"], attributes }
    }

    fn with(mut self, input: Array) -> Self {
        self.inputs.push(Some(input));
        self
    }

    fn without(mut self) -> Self {
        self.inputs.push(None);
        self
    }

    fn giving(mut self, outputs: &[&'static str]) -> Self {
        self.outputs = outputs.to_vec();
        self
    }

    fn feeds(&self) -> Vec<(String, &Array)> {
        let inputs = self.inputs.iter().enumerate();
        inputs.filter_map(|(at, input)| Some((format!("x{at}"), input.as_ref()?))).collect()
    }

    /// The node in a model, with an opset of before axes were inputs, and one of after; what may be a weight is a constant.
    fn subgraph(&self, opset: i64, constants: &[usize]) -> Subgraph {
        let name = |at: usize| format!("x{at}");
        let mut graph = GraphProto { name: Some("g".to_string()), ..Default::default() };
        for (name, array) in self.feeds() {
            let at: usize = name[1..].parse().unwrap();
            if constants.contains(&at) {
                let values = array.as_f32().unwrap().to_vec();
                graph.initializer.push(Tensor::from_f32(&array.shape, values).unwrap().to_proto(&name));
            } else {
                graph.input.push(info(&name, array.data.data_type(), Some(array.shape.len())));
            }
        }
        let inputs = self.inputs.iter().enumerate();
        graph.node = vec![NodeProto {
            op_type: Some(self.op_type.to_string()),
            domain: Some("com.microsoft".to_string()),
            name: Some("node".to_string()),
            input: inputs.map(|(at, input)| input.as_ref().map_or(String::new(), |_| name(at))).collect(),
            output: self.outputs.iter().map(|name| name.to_string()).collect(),
            attribute: self.attributes.clone(),
            ..Default::default()
        }];
        let named = self.outputs.iter().filter(|name| !name.is_empty());
        graph.output =
            named.map(|name| ValueInfoProto { name: Some(name.to_string()), ..Default::default() }).collect();
        let import = |domain: &str, version| OperatorSetIdProto {
            domain: Some(domain.to_string()),
            version: Some(version),
        };
        let opset_import = vec![import("", opset), import("com.microsoft", 1)];
        Subgraph::from(ModelProto {
            ir_version: Some(8),
            opset_import,
            graph: Some(graph),
            ..Default::default()
        })
    }

    fn run(&self, name: &str, opset: i64, constants: &[usize]) -> Vec<Array> {
        let backend = backend(name, Some(1)).unwrap_or_else(|error| panic!("{error}"));
        let feeds = self.feeds();
        let is_fed = |name: &str| !constants.contains(&name[1..].parse().unwrap());
        let feeds: Vec<_> =
            feeds.iter().filter(|(name, _)| is_fed(name)).map(|(name, x)| (name.as_str(), *x)).collect();
        let fetch: Vec<&str> = self.outputs.iter().copied().filter(|name| !name.is_empty()).collect();
        let session =
            backend.load(&self.subgraph(opset, constants)).unwrap_or_else(|error| panic!("{error}"));
        session.run(&feeds, &fetch).unwrap_or_else(|error| panic!("{}: {error}", self.op_type))
    }

    fn rten(&self) -> Vec<Array> {
        let [old, new] = [11, 21].map(|opset| self.run("rten", opset, &[1]));
        assert_eq!(old, new);
        new
    }

    /// Holds rten against ONNX Runtime, which runs the node as it is.
    fn check(&self) {
        let expected = self.run("ort", 21, &[]);
        let found = self.run("rten", 21, &[]);
        for ((found, expected), name) in found.iter().zip(&expected).zip(&self.outputs) {
            close(found, expected, &format!("{} {name}", self.op_type));
        }
    }
}

fn info(name: &str, data_type: DataType, rank: Option<usize>) -> ValueInfoProto {
    let dimension = tensor_shape_proto::Dimension::default();
    let shape = rank.map(|rank| TensorShapeProto { dim: vec![dimension; rank] });
    let tensor = type_proto::Tensor { elem_type: Some(data_type as i32), shape };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.to_string()), r#type: Some(r#type), ..Default::default() }
}

fn close(found: &Array, expected: &Array, what: &str) {
    assert_eq!(found.shape, expected.shape, "{what}");
    match (found.as_f32(), expected.as_f32()) {
        (Some(found), Some(expected)) => {
            for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
                let error = (found - expected).abs();
                assert!(error <= 2e-5 * (1.0 + expected.abs()), "{what} at {at}: {found}, not {expected}");
            }
        }
        _ => assert_eq!(found.to_i64(), expected.to_i64(), "{what}"),
    }
}

/// Numbers between -1 and 1 that look random.
fn floats(shape: &[usize], seed: u64) -> Array {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Array::new(shape.to_vec(), values).unwrap()
}

fn int32(shape: &[usize], values: &[i32]) -> Array {
    Array::new(shape.to_vec(), values.to_vec()).unwrap()
}

fn scalar(value: i64) -> Array {
    Array::new(vec![], vec![value]).unwrap()
}

const HEADS: usize = 4;
const GROUPS: usize = 2;
const WIDTH: usize = 16;
const BATCH: usize = 2;

fn int(name: &str, value: usize) -> AttributeProto {
    attribute::int(name, value as i64)
}
