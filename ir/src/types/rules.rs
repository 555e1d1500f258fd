//! What standard operators, and those of ONNX Runtime, make of the types of their inputs.

use super::infer::Inputs;
use super::shapes::{
    broadcast, concatenated, gathered, product, reduced, reshaped, split, squeezed, transposed, unsqueezed,
    with_last,
};
use super::{Dim, Type};
use crate::onnx::proto::NodeProto;
use crate::op::is_standard;
use crate::tensor::{DataType, Tensor};

/// The domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// Operators whose first result has the type of their first input.
const SAME: [&str; 46] = [
    "Abs",
    "BiasGelu",
    "Ceil",
    "Clip",
    "Cos",
    "CumSum",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "FastGelu",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "Mish",
    "Neg",
    "Not",
    "QuickGelu",
    "RMSNormalization",
    "Reciprocal",
    "Relu",
    "RotaryEmbedding",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "SimplifiedLayerNormalization",
    "Sin",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Trilu",
    "ScatterND",
];

/// Operators of as many inputs as one likes, whose types are broadcast.
const BROADCAST: [&str; 9] = ["Add", "Div", "Max", "Mean", "Min", "Mod", "Mul", "Sub", "Sum"];

/// Operators that compare, whose inputs are broadcast.
const COMPARE: [&str; 8] = ["And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor"];

const REDUCE: [&str; 10] = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
];

/// The types of a node's results by port, as far as its operator is known; those that are missing are unknown.
pub(super) fn results(node: &NodeProto, inputs: &Inputs) -> Vec<Type> {
    if !is_standard(node.domain()) && node.domain() != MICROSOFT {
        return Vec::new();
    }
    several(node, inputs).unwrap_or_else(|| first(node, inputs).into_iter().collect())
}

/// The types of operators with more than one result.
fn several(node: &NodeProto, inputs: &Inputs) -> Option<Vec<Type>> {
    match node.op_type() {
        "Split" => Some(split(node, inputs)),
        "TopK" => {
            let x = inputs.ty(0);
            let mut shape = x.shape.clone();
            if let (Some(shape), Some(axis)) = (&mut shape, x.axis(node.int_or("axis", -1))) {
                let count = inputs.integers(1).or_else(|| Some(node.ints("k")?.to_vec()));
                shape[axis] = count.and_then(|count| count.first().copied()).map_or(Dim::Unknown, Dim::Fixed);
            }
            Some(vec![Type::new(x.dtype, shape.clone()), Type::new(DataType::Int64, shape)])
        }
        // Embeddings, how many tokens of each sequence count, and the sum before the normalization.
        "EmbedLayerNormalization" => {
            let of_rank = |rank| Type::new(None, vec![Dim::Unknown; rank]);
            Some(vec![of_rank(3), Type::new(DataType::Int32, vec![Dim::Unknown]), of_rank(3)])
        }
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => {
            let x = inputs.ty(0);
            Some(vec![x.clone(), Type::default(), Type::default(), x])
        }
        _ => None,
    }
}

fn first(node: &NodeProto, inputs: &Inputs) -> Option<Type> {
    let (op_type, x) = (node.op_type(), inputs.ty(0));
    if SAME.contains(&op_type) {
        return Some(x);
    }
    if op_type == "Pow" {
        return Some(Type::new(x.dtype, broadcast(&inputs.all())));
    }
    if BROADCAST.contains(&op_type) {
        return Some(Type::new(inputs.shared_dtype(), broadcast(&inputs.all())));
    }
    if COMPARE.contains(&op_type) {
        return Some(Type::new(DataType::Bool, broadcast(&inputs.all())));
    }
    if REDUCE.contains(&op_type) {
        return Some(Type::new(x.dtype, reduced(node, inputs)));
    }
    Some(match op_type {
        "IsInf" | "IsNaN" => Type::new(DataType::Bool, x.shape),
        "Cast" => Type::new(DataType::try_from(node.int_or("to", 0) as i32).ok(), x.shape),
        "CastLike" => Type::new(inputs.ty(1).dtype, x.shape),
        "Where" => {
            let dtype = inputs.ty(1).dtype.or(inputs.ty(2).dtype);
            Type::new(dtype, broadcast(&inputs.all()))
        }
        "Constant" => constant(node)?,
        "ConstantOfShape" => {
            let value = node.find_attribute("value").and_then(|value| value.t.clone());
            let dtype = match value {
                Some(value) => Tensor::from_proto(value).dtype().ok(),
                None => Some(DataType::Float),
            };
            Type::new(dtype, inputs.extents(0))
        }
        "Shape" => {
            let whole = node.find_attribute("start").is_none() && node.find_attribute("end").is_none();
            let rank = x.rank().filter(|_| whole);
            Type::new(DataType::Int64, vec![rank.map_or(Dim::Unknown, |rank| Dim::Fixed(rank as i64))])
        }
        "Size" => Type::new(DataType::Int64, vec![]),
        "NonZero" => {
            let rank = x.rank().map_or(Dim::Unknown, |rank| Dim::Fixed(rank as i64));
            Type::new(DataType::Int64, vec![rank, Dim::Unknown])
        }
        "ArgMax" | "ArgMin" => {
            let mut shape = x.shape.clone();
            let axis = x.axis(node.int_or("axis", 0));
            match (&mut shape, axis) {
                (Some(shape), Some(axis)) if node.int_or("keepdims", 1) != 0 => shape[axis] = Dim::Fixed(1),
                (Some(shape), Some(axis)) => drop(shape.remove(axis)),
                _ => shape = None,
            }
            Type::new(DataType::Int64, shape)
        }
        "Range" => Type::new(x.dtype, vec![Dim::Unknown]),
        "Expand" => {
            let target = Type::new(None, inputs.extents(1));
            Type::new(x.dtype, broadcast(&[Type::new(None, x.shape), target]))
        }
        "Transpose" => Type::new(x.dtype, transposed(node, &x)),
        "Reshape" => Type::new(x.dtype, reshaped(node, inputs)),
        "Flatten" => Type::new(x.dtype, vec![Dim::Unknown; 2]),
        "Squeeze" => Type::new(x.dtype, squeezed(node, inputs)),
        "Unsqueeze" => Type::new(x.dtype, unsqueezed(node, inputs)),
        // As many axes as before, of other lengths.
        "Slice" | "Pad" | "Tile" => Type::new(x.dtype, x.rank().map(|rank| vec![Dim::Unknown; rank])),
        "Gather" => Type::new(x.dtype, gathered(node, inputs)),
        "Concat" => Type::new(inputs.shared_dtype(), concatenated(node, inputs)),
        "MatMul" => Type::new(inputs.shared_dtype(), product(&x, &inputs.ty(1))),
        "Gemm" => {
            let outer = |port, name: &str| {
                let axis = i64::from(node.int_or(name, 0) != 0);
                inputs.ty(port).dim(if port == 0 { axis } else { 1 - axis })
            };
            // Of other operands it is no valid node.
            let matrices = [0, 1].iter().all(|&port| inputs.ty(port).rank().is_none_or(|rank| rank == 2));
            let shape = matrices.then(|| vec![outer(0, "transA"), outer(1, "transB")]);
            Type::new(inputs.shared_dtype(), shape)
        }
        "MatMulInteger" => Type::new(DataType::Int32, product(&x, &inputs.ty(1))),
        "MatMulNBits" => {
            Type::new(x.dtype, x.shape.map(|shape| with_last(shape, Dim::Fixed(node.int_or("N", 0)))))
        }
        "Conv" => {
            let mut shape = x.rank().map(|rank| vec![Dim::Unknown; rank]);
            if let Some([batch, channels, ..]) = shape.as_deref_mut() {
                (*batch, *channels) = (x.dim(0), inputs.ty(1).dim(0));
            }
            Type::new(inputs.shared_dtype(), shape)
        }
        "DequantizeLinear" => {
            let wanted = DataType::try_from(node.int_or("output_dtype", 0) as i32).ok();
            let wanted = wanted.filter(|&dtype| dtype != DataType::Undefined);
            Type::new(wanted.or(inputs.ty(1).dtype), x.shape)
        }
        "QuantizeLinear" => {
            let wanted = DataType::try_from(node.int_or("output_dtype", 0) as i32).ok();
            let wanted = wanted.filter(|&dtype| dtype != DataType::Undefined);
            Type::new(wanted.or(inputs.ty(2).dtype), x.shape)
        }
        "OneHot" => Type::new(inputs.ty(2).dtype, x.rank().map(|rank| vec![Dim::Unknown; rank + 1])),
        _ => return None,
    })
}

fn constant(node: &NodeProto) -> Option<Type> {
    if let Some(tensor) = node.find_attribute("value").and_then(|value| value.t.clone()) {
        return Some(Type::of_tensor(&Tensor::from_proto(tensor)));
    }
    let list = |length: usize| vec![Dim::Fixed(length as i64)];
    let attribute = node.attribute.first()?;
    Some(match attribute.name() {
        "value_int" => Type::new(DataType::Int64, vec![]),
        "value_float" => Type::new(DataType::Float, vec![]),
        "value_string" => Type::new(DataType::String, vec![]),
        "value_ints" => Type::new(DataType::Int64, list(attribute.ints.len())),
        "value_floats" => Type::new(DataType::Float, list(attribute.floats.len())),
        "value_strings" => Type::new(DataType::String, list(attribute.strings.len())),
        _ => return None,
    })
}
