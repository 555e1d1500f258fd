//! Weights take less memory while ONNX Runtime folds them.
//!
//! Its constant folding goes over the whole graph once, keeps what every node yields, and frees what nothing reads any more
//! only after that; then it goes over the graph again, until nothing changes. What stands between codes and weight is
//! so alive at once, for all layers of a model. A body whose steps wait for each other is folded in as many passes, and
//! only what two steps exchange is alive.

use zqc_ir::onnx::proto::{
    GraphProto, NodeProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use zqc_ir::op::attribute::{graph, int, ints};
use zqc_ir::tensor::DataType;

use super::functions::{constant, node};

/// The steps of a body.
#[derive(Debug, Default)]
pub(super) struct Steps {
    count: usize,
}

impl Steps {
    /// Adds the first nodes to `body`.
    pub(super) fn begin(body: &mut Vec<NodeProto>) -> Self {
        body.push(constant(&name(0), ints("value_ints", &[1])));
        let mut steps = Self::default();
        // What it yields is not waited for where shapes are inferred through constants: ONNX Runtime from 1.24 on.
        steps.next(body);
        steps
    }

    /// Begins a step: adds nodes to `body` that yield an int64 `[1]`, always 1, a pass later than those of the last step.
    /// Nodes wait for it when they reshape to a shape that has it as a factor.
    ///
    /// An `If` of a known condition gives way to the nodes of its branch, in the pass that learns the condition. They read
    /// a shape, which is unknown to them until the types of the graph are inferred anew, at the end of the pass.
    pub(super) fn next(&mut self, body: &mut Vec<NodeProto>) -> String {
        let last = name(self.count);
        self.count += 1;
        let step = name(self.count);
        let [one, begun] = ["one", "begun"].map(|what| format!("{step}_{what}"));
        let branch =
            |branch: &str| graph(&format!("{branch}_branch"), size(&one, &format!("{step}_{branch}")));
        body.extend([
            node("ConstantOfShape", &[&last], &[&one], vec![]),
            node("Cast", &[&last], &[&begun], vec![int("to", DataType::Bool as i64)]),
            node("If", &[&begun], &[&step], vec![branch("then"), branch("else")]),
        ]);
        step
    }
}

fn name(step: usize) -> String {
    format!("step_{step}")
}

/// A graph that yields the number of elements of `value`, of the outer scope, as int64 `[1]`. `Size` would be folded like any
/// other node, and inference follows what `Shape` alone yields into the next step.
fn size(value: &str, output: &str) -> GraphProto {
    let shape = format!("{output}_shape");
    let one = tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(1)),
        ..Default::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(DataType::Int64 as i32),
        shape: Some(TensorShapeProto { dim: vec![one] }),
    };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    GraphProto {
        name: Some(output.to_string()),
        node: vec![
            node("Shape", &[value], &[&shape], vec![]),
            node("ReduceProd", &[&shape], &[output], vec![]),
        ],
        output: vec![ValueInfoProto {
            name: Some(output.to_string()),
            r#type: Some(r#type),
            ..Default::default()
        }],
        ..Default::default()
    }
}
