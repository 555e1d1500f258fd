//! The functions that compute a whole layer: which one a layer calls, what its operands are in the file, and what it
//! consists of. [`Signature`] has the names.

use zqc_formats::{
    ActivationFormat, Extra, FactorFormat, GROUP_SIZE, OUTPUT_TYPE, Operand, Signature, WeightKind,
};
use zqc_ir::graph::Use;
use zqc_ir::onnx::proto::{FunctionProto, NodeProto};
use zqc_ir::op::attribute::{int, int_reference, ints};
use zqc_ir::op::{QuantizedLinear, port};
use zqc_ir::operands::{codes_dtype, factor_dtype, factor_format};
use zqc_ir::tensor::{DataType, TensorError};
use zqc_ir::{Graph, Node, Op};

use super::folding::{Folding, TURN, in_turn};
use super::functions::{function, node, own_node};
use super::{dequantize, dequantize_rows};

/// The signature of the layer `linear`, which `node` is.
///
/// # Errors
/// When its low-rank factors have a type that such factors cannot have.
pub(super) fn of(graph: &Graph, node: &Node, linear: &QuantizedLinear) -> Result<Signature, TensorError> {
    let has = |at: usize| node.input(at).is_some();
    let zero_points = has(port::ZERO_POINTS).then_some(Extra::ZeroPoints);
    let extra = linear.ladder.map(Extra::Shifts).or(zero_points);
    let producer = node.input(port::X).and_then(|x| graph.producer(x));
    let activation = producer.and_then(|producer| match &graph.node(producer).op {
        Op::QuantizeActivation(quantize) => Some(quantize.format),
        _ => None,
    });
    let factor = node.input(port::LOW_RANK_UP).and_then(|value| graph.constant(value));
    let low_rank = factor.map(|factor| factor_format(factor.dtype()?)).transpose()?;
    let looks_up = |place: &Use| matches!(graph.node(place.node).op, Op::QuantizedGather(_));
    let trans_b = node.input(port::WEIGHT).is_some_and(|codes| graph.uses(codes).iter().any(looks_up));
    Ok(Signature { weight: WeightKind { format: linear.format, extra }, activation, low_rank, trans_b })
}

/// The port of a `zqc.quantized_linear` that an operand comes from.
pub(crate) fn port(operand: Operand) -> usize {
    match operand {
        Operand::Weight => port::WEIGHT,
        Operand::Scales => port::SCALES,
        Operand::Shifts => port::SHIFTS,
        Operand::ZeroPoints => port::ZERO_POINTS,
        Operand::LowRankDown => port::LOW_RANK_DOWN,
        Operand::LowRankUp => port::LOW_RANK_UP,
        Operand::LowRankScales => port::LOW_RANK_SCALES,
    }
}

/// What an operand of a layer is in the file where it is transposed: its element type and its dimensions.
pub(super) fn file_type(
    signature: Signature,
    operand: Operand,
    linear: &QuantizedLinear,
) -> (DataType, Vec<usize>) {
    let &QuantizedLinear { k, n, rank, .. } = linear;
    let (packed, groups) = (n.div_ceil(2), linear.groups());
    let factors = signature.low_rank.map_or(DataType::Undefined, factor_dtype);
    match operand {
        Operand::Weight if linear.format.bits() == 4 => (DataType::Uint8, vec![k, packed]),
        Operand::Weight => (codes_dtype(linear.format), vec![k, n]),
        Operand::Scales if linear.ladder.is_some() => (DataType::Float, vec![1, n]),
        Operand::Scales => (DataType::Float, vec![groups, n]),
        Operand::Shifts => (DataType::Uint8, vec![groups, packed]),
        Operand::ZeroPoints => (DataType::Int8, vec![groups, n]),
        Operand::LowRankDown => (factors, vec![k, rank]),
        Operand::LowRankUp => (factors, vec![rank, n]),
        Operand::LowRankScales => (DataType::Float, vec![rank]),
    }
}

/// The function of the weight that the body calls.
pub(super) fn weight_definition(signature: Signature, folding: Folding, opset: i64) -> FunctionProto {
    match signature.trans_b {
        true => dequantize_rows::definition(signature.weight, opset),
        false => dequantize::definition(signature.weight, folding, opset),
    }
}

/// The name of that function.
fn weight_function(signature: Signature) -> String {
    match signature.trans_b {
        true => signature.weight.dequantize_rows_function(),
        false => signature.weight.dequantize_function(),
    }
}

/// The function in terms of the weight's own and of the standard operators of version `opset`.
pub(super) fn definition(signature: Signature, folding: Folding, opset: i64) -> FunctionProto {
    let activation = signature.activation_inputs().iter().copied();
    let inputs: Vec<&str> = activation.chain(signature.operands().map(Operand::name)).collect();
    let in_turns = folding != Folding::AtOnce;
    let attributes: &[&str] =
        if in_turns { &[GROUP_SIZE, OUTPUT_TYPE, TURN] } else { &[GROUP_SIZE, OUTPUT_TYPE] };
    let body = body(signature, in_turns);
    function(signature.name(), &inputs, &["Y"], attributes, opset, body, doc(signature))
}

fn body(signature: Signature, in_turns: bool) -> Vec<NodeProto> {
    let cast = |from: &str, to: &str| node("Cast", &[from], &[to], vec![int("to", DataType::Float as i64)]);
    let mut body = match signature.activation.map(ActivationFormat::float) {
        None => vec![cast("X", "x")],
        Some(Some(_)) => vec![cast("Xq", "codes"), node("Mul", &["codes", "Xs"], &["x"], vec![])],
        Some(None) => vec![
            cast("Xq", "codes"),
            cast("Xz", "zero_point"),
            node("Sub", &["codes", "zero_point"], &["centred"], vec![]),
            node("Mul", &["centred", "Xs"], &["x"], vec![]),
        ],
    };
    let mut weight: Vec<&str> = signature.weight.operands().map(Operand::name).collect();
    let is_fp8 = signature.weight.format.bits() == 8 && !signature.weight.format.is_integer();
    if is_fp8 && !signature.trans_b {
        // ONNX Runtime knows the types of an input from the standard operators that read it, and takes it for none of
        // FP8 where only a function does.
        body.push(node("Identity", &["Wq"], &["fp8"], vec![]));
        weight[0] = "fp8";
    }
    let mut attributes = vec![int_reference(GROUP_SIZE, GROUP_SIZE)];
    match (signature.trans_b, in_turns) {
        // The function of the rows is that of the table too, where none wait.
        (true, true) => {
            body.push(node("Shape", &["Wq"], &["shape"], vec![]));
            body.extend(in_turn("shape", "shape_in_turn"));
            body.push(node("Reshape", &["Wq", "shape_in_turn"], &["codes_in_turn"], vec![]));
            weight[0] = "codes_in_turn";
        }
        (false, true) => attributes.push(int_reference(TURN, TURN)),
        (_, false) => {}
    }
    let w = if signature.trans_b { "rows" } else { "w" };
    body.push(own_node(&weight_function(signature), &weight, &[w], attributes));
    if signature.trans_b {
        body.push(node("Transpose", &["rows"], &["w"], vec![ints("perm", &[1, 0])]));
    }
    if signature.low_rank.is_some() {
        body.extend([
            node("MatMul", &["x", "w"], &["product"], vec![]),
            cast("V", "v"),
            node("MatMul", &["x", "v"], &["components"], vec![]),
            node("Mul", &["components", "S"], &["scaled_components"], vec![]),
            cast("U", "u"),
            node("MatMul", &["scaled_components", "u"], &["branch"], vec![]),
            node("Add", &["product", "branch"], &["y"], vec![]),
        ]);
    } else {
        body.push(node("MatMul", &["x", "w"], &["y"], vec![]));
    }
    body.push(node("Cast", &["y"], &["Y"], vec![int_reference("to", OUTPUT_TYPE)]));
    body
}

fn doc(signature: Signature) -> String {
    let x = match signature.activation.map(ActivationFormat::float) {
        None => "X",
        Some(Some(_)) => "(Xq * Xs)",
        Some(None) => "((Xq - Xz) * Xs)",
    };
    let inputs = signature.activation_inputs().join(", ");
    let source = match signature.activation {
        None => format!("{inputs} is float [..., K]"),
        Some(format) => format!("{inputs} are what {} yields", format.quantize_function()),
    };
    let operands: Vec<&str> = signature.weight.operands().map(Operand::name).collect();
    let weight = if signature.trans_b { "the transpose of W [K, N]" } else { "W [K, N]" };
    let branch = match signature.low_rank {
        None => String::new(),
        Some(_) => format!(" + (({x} V) * S) U"),
    };
    let factors = match signature.low_rank {
        None => "",
        Some(FactorFormat::E4M3) => "; V [K, R] and U [R, N] are E4M3, S is float32 [R]",
        Some(FactorFormat::Bf16) => "; V [K, R] and U [R, N] are bfloat16, S is float32 [R]",
    };
    format!(
        "A linear layer: Y [..., N] = {x} W{branch} in float32, cast to output_type, a TensorProto.DataType. {source}; \
         {weight} is what {} yields of {} and group_size{factors}.",
        weight_function(signature),
        operands.join(", "),
    )
}
