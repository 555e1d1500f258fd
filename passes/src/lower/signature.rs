//! The functions that compute a whole layer: `W4A8Linear`, `W4A8Linear_Thirds_LowRank`, `W8A16Linear_Int8` ...
//!
//! The name says what the layer consists of. `W4` or `W8` are the bits of the weight, `A8` those of the activation, `A16`
//! stands for one in float, of whatever width. What follows `Linear`, each after an underscore and in this order, is what
//! differs from E2M1 or E4M3 weights with a scale for every group, E4M3 activations and no low-rank branch:
//!
//! | part | |
//! |---|---|
//! | `E3M0` `E5M2` `Int4` `Int8` | format of the weight |
//! | `Octaves` `Thirds` | group scales are steps of that ladder below the scale of the row |
//! | `ZeroPoints` | every group has a zero point |
//! | `ActE5M2` `ActInt8` | format of the activation |
//! | `LowRank` `LowRankBf16` | low-rank branch with E4M3 or bfloat16 factors |

use zqc_ir::onnx::proto::{FunctionProto, NodeProto};
use zqc_ir::op::attribute::{int, int_reference};
use zqc_ir::op::{QuantizedLinear, port};
use zqc_ir::operands::{codes_dtype, factor_dtype, factor_format};
use zqc_ir::tensor::{DataType, TensorError};
use zqc_ir::{Graph, Node, Op};
use zqc_numerics::{ActivationFormat, FactorFormat, Format};

use super::dequantize::{Extra, WeightKind};
use super::functions::{GROUP_SIZE, OUTPUT_TYPE, function, node, own_node, spelling};
use super::{activation, at_once};

/// What a layer consists of, and so which function computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signature {
    /// The weight.
    pub weight: WeightKind,
    /// Format of the activation; `None` for one in float.
    pub activation: Option<ActivationFormat>,
    /// Format of the factors of the low-rank branch, if there is one.
    pub low_rank: Option<FactorFormat>,
}

impl Signature {
    /// Every signature.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let activations = || ActivationFormat::ALL.into_iter().map(Some).chain([None]);
        let branches = [None, Some(FactorFormat::E4M3), Some(FactorFormat::Bf16)];
        WeightKind::all().flat_map(move |weight| {
            activations()
                .flat_map(move |activation| branches.map(|low_rank| Self { weight, activation, low_rank }))
        })
    }

    /// The signature of the layer `linear`, which `node` is.
    ///
    /// # Errors
    /// When its low-rank factors have a type that such factors cannot have.
    pub(crate) fn of(graph: &Graph, node: &Node, linear: &QuantizedLinear) -> Result<Self, TensorError> {
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
        Ok(Self { weight: WeightKind { format: linear.format, extra }, activation, low_rank })
    }

    /// The signature of the function of this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::all().find(|signature| signature.name() == name)
    }

    /// The name of the function.
    pub(crate) fn name(self) -> String {
        let WeightKind { format, .. } = self.weight;
        let weight = match format {
            Format::E2M1 | Format::E4M3 => String::new(),
            other => format!("_{}", spelling(other)),
        };
        let activation = match self.activation {
            None | Some(ActivationFormat::E4M3) => String::new(),
            Some(other) => format!("_Act{}", activation::spelling(other)),
        };
        let low_rank = match self.low_rank {
            None => "",
            Some(FactorFormat::E4M3) => "_LowRank",
            Some(FactorFormat::Bf16) => "_LowRankBf16",
        };
        let (bits, activation_bits) = (format.bits(), if self.activation.is_some() { 8 } else { 16 });
        let extra = self.weight.suffix();
        format!("W{bits}A{activation_bits}Linear{weight}{extra}{activation}{low_rank}")
    }

    /// The names of what stands for the activation, the first inputs of the function.
    pub(crate) fn activation_inputs(self) -> &'static [&'static str] {
        self.activation.map_or(&["X"], activation::outputs)
    }

    /// The operands, the inputs after those: the port of a `zqc.quantized_linear` that each comes from, and its name.
    pub(crate) fn operands(self) -> Vec<(usize, &'static str)> {
        let mut operands = self.weight.operands();
        if self.low_rank.is_some() {
            operands.extend([
                (port::LOW_RANK_DOWN, "V"),
                (port::LOW_RANK_UP, "U"),
                (port::LOW_RANK_SCALES, "S"),
            ]);
        }
        operands
    }

    /// The port of a `zqc.quantized_linear` that an input of the function comes from, if it is an operand.
    pub(crate) fn operand(self, input: usize) -> Option<usize> {
        let at = input.checked_sub(self.activation_inputs().len())?;
        self.operands().get(at).map(|&(port, _)| port)
    }

    /// What the operand at `port` of a layer is in the file: its element type and its dimensions.
    pub(crate) fn file_type(self, at: usize, linear: &QuantizedLinear) -> (DataType, Vec<usize>) {
        let &QuantizedLinear { k, n, rank, .. } = linear;
        let (packed, groups) = (n.div_ceil(2), linear.groups());
        let factors = self.low_rank.map_or(DataType::Undefined, factor_dtype);
        match at {
            port::WEIGHT if linear.format.bits() == 4 => (DataType::Uint8, vec![k, packed]),
            port::WEIGHT => (codes_dtype(linear.format), vec![k, n]),
            port::SCALES if linear.ladder.is_some() => (DataType::Float, vec![1, n]),
            port::SHIFTS => (DataType::Uint8, vec![groups, packed]),
            port::ZERO_POINTS => (DataType::Int8, vec![groups, n]),
            port::LOW_RANK_DOWN => (factors, vec![k, rank]),
            port::LOW_RANK_UP => (factors, vec![rank, n]),
            port::LOW_RANK_SCALES => (DataType::Float, vec![rank]),
            _ => (DataType::Float, vec![groups, n]),
        }
    }

    /// The function in terms of the weight's own and of the standard operators of version `opset`.
    pub(crate) fn definition(self, opset: i64) -> FunctionProto {
        let operands = self.operands();
        let inputs: Vec<&str> = self
            .activation_inputs()
            .iter()
            .copied()
            .chain(operands.into_iter().map(|(_, name)| name))
            .collect();
        function(self.name(), &inputs, &["Y"], &[GROUP_SIZE, OUTPUT_TYPE], opset, self.body(), self.doc())
    }

    /// The function of the weight that the body calls, folded at once or in steps.
    pub(crate) fn dequantize_definition(self, opset: i64, at_once: bool) -> FunctionProto {
        if at_once { at_once::dequantize(self.weight, opset) } else { self.weight.definition(opset) }
    }

    fn body(self) -> Vec<NodeProto> {
        let cast =
            |from: &str, to: &str| node("Cast", &[from], &[to], vec![int("to", DataType::Float as i64)]);
        let mut body = match self.activation.map(ActivationFormat::float) {
            None => vec![cast("X", "x")],
            Some(Some(_)) => vec![cast("Xq", "codes"), node("Mul", &["codes", "Xs"], &["x"], vec![])],
            Some(None) => vec![
                cast("Xq", "codes"),
                cast("Xz", "zero_point"),
                node("Sub", &["codes", "zero_point"], &["centred"], vec![]),
                node("Mul", &["centred", "Xs"], &["x"], vec![]),
            ],
        };
        let mut weight: Vec<&str> = self.weight.operands().into_iter().map(|(_, name)| name).collect();
        if matches!(self.weight.format, Format::E4M3 | Format::E5M2) {
            // ONNX Runtime knows the types of an input from the standard operators that read it, and takes it for none of
            // FP8 where only a function does.
            body.push(node("Identity", &["Wq"], &["fp8"], vec![]));
            weight[0] = "fp8";
        }
        let group_size = vec![int_reference(GROUP_SIZE, GROUP_SIZE)];
        body.push(own_node(&self.weight.function_name(), &weight, &["w"], group_size));
        if self.low_rank.is_some() {
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

    fn doc(self) -> String {
        let x = match self.activation.map(ActivationFormat::float) {
            None => "X",
            Some(Some(_)) => "(Xq * Xs)",
            Some(None) => "((Xq - Xz) * Xs)",
        };
        let inputs = self.activation_inputs().join(", ");
        let source = match self.activation {
            None => format!("{inputs} is float [..., K]"),
            Some(format) => format!("{inputs} are what {} yields", activation::name(format)),
        };
        let operands: Vec<&str> = self.weight.operands().into_iter().map(|(_, name)| name).collect();
        let branch = match self.low_rank {
            None => String::new(),
            Some(_) => format!(" + (({x} V) * S) U"),
        };
        let factors = match self.low_rank {
            None => "",
            Some(FactorFormat::E4M3) => "; V [K, R] and U [R, N] are E4M3, S is float32 [R]",
            Some(FactorFormat::Bf16) => "; V [K, R] and U [R, N] are bfloat16, S is float32 [R]",
        };
        format!(
            "A linear layer: Y [..., N] = {x} W{branch} in float32, cast to output_type, a TensorProto.DataType. {source}; \
             W [K, N] is what {} yields of {} and group_size{factors}.",
            self.weight.function_name(),
            operands.join(", "),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_signature_has_a_name_of_its_own_that_leads_back() {
        let names: HashSet<String> = Signature::all().map(Signature::name).collect();
        assert_eq!(names.len(), 11 * 4 * 3);
        for signature in Signature::all() {
            assert_eq!(Signature::parse(&signature.name()), Some(signature));
        }
    }

    #[test]
    fn names_follow_the_grammar() {
        let parts = [
            &["W4A8Linear", "W8A8Linear", "W4A16Linear", "W8A16Linear"][..],
            &["", "_E2M1", "_E3M0", "_E4M3", "_E5M2", "_Int4", "_Int8"],
            &["", "_Octaves", "_Thirds", "_ZeroPoints"],
            &["", "_ActE4M3", "_ActE5M2", "_ActInt8"],
            &["", "_LowRank", "_LowRankBf16"],
        ];
        let spelled = parts.into_iter().fold(vec![String::new()], |names, part| {
            names.iter().flat_map(|name| part.iter().map(move |part| format!("{name}{part}"))).collect()
        });
        let parsed: Vec<_> = spelled.iter().filter_map(|name| Signature::parse(name)).collect();
        assert_eq!(parsed.len(), Signature::all().count(), "each name is one of these, and none means two");
        let known = [
            "W4A8Linear",
            "W4A8Linear_Thirds_LowRank",
            "W8A8Linear_Int8_ActInt8",
            "W8A16Linear",
            "W4A8Linear_Int4_ZeroPoints_ActE5M2_LowRankBf16",
        ];
        assert!(known.into_iter().all(|name| Signature::parse(name).is_some()));
        let unknown = [
            "",
            "w4a8linear",
            "W4A8Linear_",
            "W4A8Linear_LowRank_Octaves",
            "W4A8Linear_Int8",
            "W8A8Linear_Octaves",
            "W4A8Linear_ZeroPoints",
        ];
        assert!(unknown.into_iter().all(|name| Signature::parse(name).is_none()));
    }
}
