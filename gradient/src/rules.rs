//! The rules, by operator: what the gradient with respect to a node's outputs makes of those with respect to its inputs.

mod activations;
mod elementwise;
mod index;
mod matmul;
mod norm;
mod reduce;
mod rotary;
mod shape;
mod softmax;

use zqc_ir::op::is_standard;
use zqc_ir::{Model, Op};

use crate::backward::{Backward, Reason};

/// Writes the gradient of a node; the reason where it does not cover the node.
pub(crate) type Rule = fn(&mut Backward) -> Result<(), Reason>;

const MICROSOFT: &str = "com.microsoft";

/// The rules of standard operators, and of those that ONNX Runtime writes in the standard domain.
const STANDARD: [(&str, Rule); 53] = [
    ("Abs", elementwise::abs),
    ("Add", elementwise::add),
    ("Cast", elementwise::cast),
    ("CastLike", elementwise::cast),
    ("Clip", elementwise::clip),
    ("Concat", shape::concat),
    ("Cos", elementwise::cos),
    ("Div", elementwise::div),
    ("Dropout", elementwise::dropout),
    ("Erf", elementwise::erf),
    ("Exp", elementwise::exp),
    ("Expand", shape::expand),
    ("Flatten", shape::reshape),
    ("Gather", index::gather),
    ("Gelu", activations::gelu),
    ("Gemm", matmul::gemm),
    ("HardSigmoid", activations::hard_sigmoid),
    ("HardSwish", activations::hard_swish),
    ("Identity", elementwise::identity),
    ("LayerNormalization", norm::layer),
    ("LeakyRelu", activations::leaky_relu),
    ("Log", elementwise::log),
    ("LogSoftmax", softmax::log_softmax),
    ("MatMul", matmul::mat_mul),
    ("Max", elementwise::extreme),
    ("Min", elementwise::extreme),
    ("Mul", elementwise::mul),
    ("Neg", elementwise::neg),
    ("Pow", elementwise::pow),
    ("RMSNormalization", norm::root_mean_square),
    ("Reciprocal", elementwise::reciprocal),
    ("ReduceMean", reduce::mean),
    ("ReduceSum", reduce::sum),
    ("ReduceSumSquare", reduce::sum_square),
    ("Relu", activations::relu),
    ("Reshape", shape::reshape),
    ("RotaryEmbedding", rotary::standard),
    ("Sigmoid", activations::sigmoid),
    ("SimplifiedLayerNormalization", norm::root_mean_square),
    ("Sin", elementwise::sin),
    ("Slice", index::slice),
    ("Softmax", softmax::softmax),
    ("Softplus", activations::softplus),
    ("Split", shape::split),
    ("Sqrt", elementwise::sqrt),
    ("Squeeze", shape::reshape),
    ("Sub", elementwise::sub),
    ("Sum", elementwise::add),
    ("Swish", activations::swish),
    ("Tanh", activations::tanh),
    ("Transpose", shape::transpose),
    ("Unsqueeze", shape::reshape),
    ("Where", elementwise::choose),
];

/// The rules of ONNX Runtime's own operators.
const CONTRIB: [(&str, Rule); 7] = [
    ("BiasGelu", activations::bias_gelu),
    ("FastGelu", activations::fast_gelu),
    ("Gelu", activations::gelu),
    ("QuickGelu", activations::quick_gelu),
    ("RotaryEmbedding", rotary::contrib),
    ("SkipLayerNormalization", norm::skip_layer),
    ("SkipSimplifiedLayerNormalization", norm::skip_root_mean_square),
];

/// The rule of an operator of `model`; the reason where there is none. What rounds an activation passes the gradient on as it comes
/// (the straight-through estimator of Bengio et al., arXiv 1308.3432).
pub(crate) fn find(model: &Model, op: &Op) -> Result<Rule, Reason> {
    let node = match op {
        Op::Linear(_) => return Ok(matmul::linear),
        Op::Onnx(node) => node,
        Op::QuantizeActivation(_) => return Ok(elementwise::identity),
        Op::QuantizedLinear(_) => return Ok(matmul::quantized_linear),
        Op::QuantizedGather(_) => return Err("its codes have no gradient"),
    };
    if model.function(node.domain(), node.op_type()).is_some() {
        return Err("it calls a model-local function; inline it first");
    }
    let rules: &[(&str, Rule)] = match node.domain() {
        domain if is_standard(domain) => &STANDARD,
        MICROSOFT => &CONTRIB,
        _ => &[],
    };
    let rule = rules.iter().find(|(op_type, _)| *op_type == node.op_type());
    rule.map(|&(_, rule)| rule).ok_or("no rule is written for its operator")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_in_order() {
        assert!(STANDARD.is_sorted_by(|(one, _), (next, _)| one < next));
        assert!(CONTRIB.is_sorted_by(|(one, _), (next, _)| one < next));
    }
}
