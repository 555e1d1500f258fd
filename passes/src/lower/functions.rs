//! The functions of domain `ai.zqc`, which a lowered model defines itself: a runtime that registers a kernel of their
//! name runs that, every other one inlines the body. ONNX Runtime then folds the weights to float at load.

use zqc_ir::Op;
use zqc_ir::onnx::proto::{AttributeProto, FunctionProto, NodeProto, OperatorSetIdProto, TensorProto};
use zqc_ir::op::attribute::{float, int, int_reference, ints, tensor};
use zqc_ir::tensor::DataType;
use zqc_numerics::{Format, SCALE_FLOOR};

/// The domain of the functions.
pub(crate) const DOMAIN: &str = "ai.zqc";
/// Its version: what a function computes under a version never changes.
pub(crate) const VERSION: i64 = 1;
/// The least version of the standard operators that the bodies are valid in: there, `Cast` learnt FP8.
pub(crate) const LEAST_OPSET: i64 = 19;
/// The least IR version that knows functions and FP8.
pub(crate) const LEAST_IR_VERSION: i64 = 9;

/// `(X) -> (Xq, Xs)`: token-wise quantization.
pub(crate) const QUANTIZE_ACTIVATION: &str = "QuantizeActivationE4M3";
/// `(Wq, Ws) {group_size} -> (W)`: the float weight.
pub(crate) const DEQUANTIZE_WEIGHT: &str = "DequantizeE2M1";
/// `(Xq, Xs, Wq, Ws) {group_size, output_type} -> (Y)`: a whole layer.
pub(crate) const LINEAR: &str = "W4A8Linear";

/// Weights that share a scale, along K.
pub(crate) const GROUP_SIZE: &str = "group_size";
/// Element type of the layer's output, a `TensorProto.DataType`.
pub(crate) const OUTPUT_TYPE: &str = "output_type";

/// A call of one of the functions.
pub(crate) fn call(function: &str, attributes: Vec<AttributeProto>) -> Op {
    Op::Onnx(Box::new(NodeProto { domain: Some(DOMAIN.to_string()), ..node(function, &[], &[], attributes) }))
}

/// [`QUANTIZE_ACTIVATION`] in terms of the standard operators of version `opset`.
pub(crate) fn quantize_activation(opset: i64) -> FunctionProto {
    let body = vec![
        node("Cast", &["X"], &["x"], vec![int("to", DataType::Float as i64)]),
        node("Abs", &["x"], &["magnitude"], vec![]),
        constant("last_axis", ints("value_ints", &[-1])),
        node("ReduceMax", &["magnitude", "last_axis"], &["peak"], vec![int("keepdims", 1)]),
        constant("largest_code", float("value_float", Format::E4M3.max())),
        node("Div", &["peak", "largest_code"], &["scale"], vec![]),
        constant("scale_floor", float("value_float", SCALE_FLOOR)),
        node("Max", &["scale", "scale_floor"], &["Xs"], vec![]),
        node("Div", &["x", "Xs"], &["scaled"], vec![]),
        node(
            "Cast",
            &["scaled"],
            &["Xq"],
            vec![int("to", DataType::Float8e4m3fn as i64), int("saturate", 1)],
        ),
    ];
    FunctionProto {
        doc_string: Some(
            "Token-wise quantization to FP8 E4M3: X is float [..., K]; Xs is float32 [..., 1], max|X| / 448 over the \
             last axis and at least 1e-12; Xq is X / Xs rounded to nearest even, saturating."
                .to_string(),
        ),
        ..function(QUANTIZE_ACTIVATION, ["X"], ["Xq", "Xs"], [], opset, body)
    }
}

/// [`DEQUANTIZE_WEIGHT`] in terms of the standard operators of version `opset`.
///
/// The codebook holds pairs, so that one `Gather` unpacks a byte, and holds twice the values of E2M1, which are
/// integers: the tensors that ONNX Runtime makes on its way to the weight, all alive at once, stay small.
pub(crate) fn dequantize_weight(opset: i64) -> FunctionProto {
    let values = Format::E2M1.codebook();
    let pairs = (0..=u8::MAX).flat_map(|byte| [byte & 0xF, byte >> 4]);
    let pairs: Vec<u8> = pairs.map(|code| (2.0 * values[usize::from(code)]) as i8 as u8).collect();
    let pairs = TensorProto {
        dims: vec![256, 2],
        data_type: Some(DataType::Int8 as i32),
        raw_data: Some(pairs.into()),
        ..Default::default()
    };
    let body = vec![
        constant("doubled_pairs", tensor("value", pairs)),
        node("Cast", &["Wq"], &["bytes"], vec![int("to", DataType::Int32 as i64)]),
        node("Gather", &["doubled_pairs", "bytes"], &["unpacked"], vec![]),
        constant("rows_by_rest", ints("value_ints", &[0, -1])),
        node("Reshape", &["unpacked", "rows_by_rest"], &["padded"], vec![]),
        constant("first", ints("value_ints", &[0])),
        constant("columns", ints("value_ints", &[1])),
        node("Shape", &["Ws"], &["n"], vec![int("start", 1)]),
        node("Slice", &["padded", "first", "n", "columns"], &["doubled"], vec![]),
        node("Cast", &["doubled"], &["doubled_values"], vec![int("to", DataType::Float as i64)]),
        node("Shape", &["Wq"], &["rows"], vec![int("end", 1)]),
        node("Squeeze", &["rows"], &["k"], vec![]),
        constant("zero", int("value_int", 0)),
        constant("one", int("value_int", 1)),
        node("Range", &["zero", "k", "one"], &["row"], vec![]),
        constant("rows_per_group", int_reference("value_int", GROUP_SIZE)),
        node("Div", &["row", "rows_per_group"], &["group"], vec![]),
        constant("half", float("value_float", 0.5)),
        node("Mul", &["Ws", "half"], &["halved_scales"], vec![]),
        node("Gather", &["halved_scales", "group"], &["halved_scale"], vec![]),
        node("Mul", &["doubled_values", "halved_scale"], &["W"], vec![]),
    ];
    FunctionProto {
        doc_string: Some(
            "The float32 weight W [K, N] of FP4 E2M1 codes. Wq is uint8 [K, ceil(N / 2)], two codes a byte along N, the \
             first in the low nibble; Ws is float32 [ceil(K / group_size), N]: W[k, n] = value of code [k, n] * \
             Ws[k / group_size, n]. The values of the codes 0 to 15 are 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives."
                .to_string(),
        ),
        ..function(DEQUANTIZE_WEIGHT, ["Wq", "Ws"], ["W"], [GROUP_SIZE], opset, body)
    }
}

/// [`LINEAR`] in terms of [`DEQUANTIZE_WEIGHT`] and the standard operators of version `opset`.
pub(crate) fn linear(opset: i64) -> FunctionProto {
    let dequantize =
        node(DEQUANTIZE_WEIGHT, &["Wq", "Ws"], &["w"], vec![int_reference(GROUP_SIZE, GROUP_SIZE)]);
    let body = vec![
        node("Cast", &["Xq"], &["codes"], vec![int("to", DataType::Float as i64)]),
        node("Mul", &["codes", "Xs"], &["x"], vec![]),
        NodeProto { domain: Some(DOMAIN.to_string()), ..dequantize },
        node("MatMul", &["x", "w"], &["y"], vec![]),
        node("Cast", &["y"], &["Y"], vec![int_reference("to", OUTPUT_TYPE)]),
    ];
    let mut linear =
        function(LINEAR, ["Xq", "Xs", "Wq", "Ws"], ["Y"], [GROUP_SIZE, OUTPUT_TYPE], opset, body);
    linear.opset_import.push(import(DOMAIN, VERSION));
    FunctionProto {
        doc_string: Some(
            "A linear layer with FP4 weights and FP8 activations: Y [..., N] = (Xq * Xs) W in float32, cast to \
             output_type, a TensorProto.DataType. Xq and Xs are as QuantizeActivationE4M3 yields them; W [K, N] is what \
             DequantizeE2M1 yields of Wq, Ws and group_size."
                .to_string(),
        ),
        ..linear
    }
}

fn function<const I: usize, const O: usize, const A: usize>(
    name: &str,
    inputs: [&str; I],
    outputs: [&str; O],
    attributes: [&str; A],
    opset: i64,
    body: Vec<NodeProto>,
) -> FunctionProto {
    FunctionProto {
        name: Some(name.to_string()),
        domain: Some(DOMAIN.to_string()),
        input: inputs.map(str::to_string).to_vec(),
        output: outputs.map(str::to_string).to_vec(),
        attribute: attributes.map(str::to_string).to_vec(),
        node: body,
        opset_import: vec![import("", opset)],
        ..Default::default()
    }
}

fn import(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.to_string()), version: Some(version) }
}

fn constant(name: &str, value: AttributeProto) -> NodeProto {
    node("Constant", &[], &[name], vec![value])
}

fn node(op_type: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
    NodeProto {
        op_type: Some(op_type.to_string()),
        input: owned(inputs),
        output: owned(outputs),
        attribute: attributes,
        ..Default::default()
    }
}
