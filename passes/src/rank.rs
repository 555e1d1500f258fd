//! How many dimensions a value has.

use zqc_ir::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use zqc_ir::onnx::proto::type_proto;
use zqc_ir::{Graph, Op, ValueId};

/// Values looked at before the rank counts as unknown.
const MOST_VALUES: usize = 64;

/// Operators whose result has the rank of their first input.
const KEEP: [&str; 19] = [
    "Cast",
    "Clip",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Neg",
    "Relu",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Softplus",
    "Sqrt",
    "Tanh",
    "Transpose",
];

/// Operators whose inputs are broadcast to one shape.
const BROADCAST: [&str; 5] = ["Add", "Sub", "Mul", "Div", "Pow"];

/// The number of dimensions of `value`, as the file declares it or as it follows from the operators before; `None` where
/// neither tells.
pub(crate) fn rank(graph: &Graph, value: ValueId) -> Option<usize> {
    Ranks { graph, left: MOST_VALUES }.of(value)
}

struct Ranks<'g> {
    graph: &'g Graph,
    left: usize,
}

impl Ranks<'_> {
    fn of(&mut self, value: ValueId) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let graph = self.graph;
        declared_rank(graph, value)
            .or_else(|| graph.literal(value).map(|tensor| tensor.dims().len()))
            .or_else(|| self.computed(value))
    }

    fn computed(&mut self, value: ValueId) -> Option<usize> {
        let graph = self.graph;
        let node = graph.node(graph.producer(value)?);
        let is = |op_type: &&str| node.op.as_standard(op_type).is_some();
        let input = |port| node.input(port);
        if let Op::Onnx(proto) = &node.op
            && (proto.domain(), proto.op_type()) == ("com.microsoft", "EmbedLayerNormalization")
        {
            // Embeddings, how many tokens of each sequence count, and the sum before the normalization.
            return Some(if node.output(1) == Some(value) { 1 } else { 3 });
        }
        let elements = |port| graph.literal(input(port)?)?.elements().ok();
        if KEEP.iter().any(is) {
            return self.of(input(0)?);
        }
        if BROADCAST.iter().any(is) {
            return Some(self.of(input(0)?)?.max(self.of(input(1)?)?));
        }
        let axes = |op_type| {
            let node = node.op.as_standard(op_type)?;
            elements(1).or_else(|| node.ints("axes").map(<[i64]>::len))
        };
        if let Some(added) = axes("Unsqueeze") {
            return Some(self.of(input(0)?)? + added);
        }
        if let Some(removed) = axes("Squeeze") {
            return self.of(input(0)?)?.checked_sub(removed);
        }
        if let Some(sum) = node.op.as_standard("ReduceSum") {
            let axes = elements(1).or_else(|| sum.ints("axes").map(<[i64]>::len));
            return match sum.int_or("keepdims", 1) {
                0 => self.of(input(0)?)?.checked_sub(axes?),
                _ => self.of(input(0)?),
            };
        }
        if is(&"MatMul") {
            // Below two dimensions the product has others.
            let [a, b] = [self.of(input(0)?)?, self.of(input(1)?)?];
            return (a.min(b) >= 2).then_some(a.max(b));
        }
        if is(&"Gather") {
            return (self.of(input(0)?)? + self.of(input(1)?)?).checked_sub(1);
        }
        if is(&"Reshape") {
            return elements(1);
        }
        is(&"Flatten").then_some(2)
    }
}

/// The number of dimensions of `value`, where the file declares its shape.
pub(crate) fn declared_rank(graph: &Graph, value: ValueId) -> Option<usize> {
    declared_dims(graph, value).map(|dims| dims.len())
}

/// The dimensions of `value`, where the file declares its shape; `None` for one without a number.
pub(crate) fn declared_dims(graph: &Graph, value: ValueId) -> Option<Vec<Option<i64>>> {
    match graph.value(value).info.as_ref()?.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => {
            let number = |dim: &Dimension| match dim.value {
                Some(dimension::Value::DimValue(number)) => Some(number),
                _ => None,
            };
            Some(tensor.shape.as_ref()?.dim.iter().map(number).collect())
        }
        _ => None,
    }
}
