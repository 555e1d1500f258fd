//! What a node does: a standard ONNX operator, kept whole, or one of the few typed operators of our own.

use zqc_formats::{ActivationFormat, Format, Ladder};

use crate::graph::Node;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto};
use crate::tensor::DataType;

/// The operator of a node. The enum is exhaustive: what lowers or runs a graph does not compile before it knows a new operator, and
/// one is a new major version of the crate.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Any ONNX operator: type, domain, attributes, metadata as they came. Its `input` and `output` lists are
    /// empty here, and so are the graphs of its attributes: the graph holds the connections, and the node its regions.
    Onnx(Box<NodeProto>),
    /// Token-wise quantization of an activation `[..., K]`: one scale, and perhaps a zero point, per row of K values.
    /// Inputs: `x`. Outputs: the quantized tensor (codes, scales and zero points as one value).
    QuantizeActivation(QuantizeActivation),
    /// `y = alpha * x Wᵀ + beta * bias`, the canonical form of every linear layer with a constant weight.
    /// Inputs: `x` `[..., K]`, weight, optional bias (anything that broadcasts to `y`). Outputs: `y` `[..., N]`.
    Linear(Linear),
    /// `y = x Ŵᵀ + ((x Vᵀ) diag(s)) Uᵀ + beta * bias`: a linear layer with a quantized weight, and perhaps a low-rank
    /// branch that repairs it. Inputs: `x` (quantized or not), and at the ports of [`port`] what the layer has of the
    /// rest. Outputs: `y` `[..., N]`.
    QuantizedLinear(QuantizedLinear),
    /// `y = Ŵ[indices]`: rows of a quantized weight, looked up as `Gather` along axis 0 does. It is the table of the token
    /// embeddings, of `n` entries of `k` features; a tied language-model head reads the same operands. Inputs: indices
    /// `[...]` of `i64` or `i32`, and the operands at the ports of [`port`], without low-rank branch or bias. Outputs: `y`
    /// `[..., K]`.
    QuantizedGather(QuantizedLinear),
}

/// See [`Op::QuantizeActivation`].
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeActivation {
    /// The number format of the codes.
    pub format: ActivationFormat,
}

/// How the weight initializer of a [`Linear`] lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[K, N]`, as `MatMul` wants its right operand.
    InputOutput,
    /// `[N, K]`, as PyTorch stores `Linear.weight`.
    OutputInput,
}

impl Layout {
    /// The other one.
    pub fn transposed(self) -> Self {
        match self {
            Layout::InputOutput => Layout::OutputInput,
            Layout::OutputInput => Layout::InputOutput,
        }
    }
}

/// See [`Op::Linear`].
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// The layer's path in the source model, as well as the exporter kept it: `model.layers.0.mlp.up_proj`.
    pub layer: String,
    /// Input features.
    pub k: usize,
    /// Output features.
    pub n: usize,
    /// How the weight lies in memory.
    pub layout: Layout,
    /// Factor on the product (Gemm's `alpha`).
    pub alpha: f32,
    /// Factor on the bias (Gemm's `beta`).
    pub beta: f32,
    /// Element type of weight, input and output.
    pub dtype: DataType,
    /// The nodes that this one stands for, to be put back when the layer stays in float.
    pub origin: Vec<Node>,
}

/// See [`Op::QuantizedLinear`] and [`Op::QuantizedGather`].
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedLinear {
    /// As in [`Linear`].
    pub layer: String,
    /// Input features.
    pub k: usize,
    /// Output features.
    pub n: usize,
    /// Number format of the weight codes.
    pub format: Format,
    /// Weights that share a scale, along K; the last group of a row may be short.
    pub group_size: usize,
    /// What the shifts of the groups are steps of; `None` without shifts.
    pub ladder: Option<Ladder>,
    /// Rank `R` of the low-rank branch; 0 without one.
    pub rank: usize,
    /// Factor on the bias.
    pub beta: f32,
    /// Element type of the input before quantization and of the output.
    pub dtype: DataType,
}

/// The input ports of our linear operators; those of a `quantized_linear` that it does without are left out.
pub mod port {
    /// The activation; the indices of a `quantized_gather`.
    pub const X: usize = 0;
    /// The float weight of a `linear`. The codes of a `quantized_linear`: `u8 [N, ceil(K/2)]` for 4-bit formats, the first
    /// of two in the low nibble, else `[N, K]` in the type of the format, `f8e4m3`, `f8e5m2` or `i8`.
    pub const WEIGHT: usize = 1;
    /// The bias of a `linear`.
    pub const LINEAR_BIAS: usize = 2;
    /// The scales of a `quantized_linear`: `f32 [N, groups]`, or `f32 [N, 1]` where there are shifts.
    pub const SCALES: usize = 2;
    /// How many steps of the ladder the scale of a group lies below that of its row: `u8 [N, groups]`.
    pub const SHIFTS: usize = 3;
    /// The zero points of the groups, for integer formats: `i8 [N, groups]`.
    pub const ZERO_POINTS: usize = 4;
    /// `V` of the low-rank branch: `[R, K]` in `f8e4m3` or `bf16`.
    pub const LOW_RANK_DOWN: usize = 5;
    /// `U` of the low-rank branch: `[N, R]` in the type of `V`.
    pub const LOW_RANK_UP: usize = 6;
    /// `s` of the low-rank branch: `f32 [R]`.
    pub const LOW_RANK_SCALES: usize = 7;
    /// The bias of a `quantized_linear`.
    pub const QUANTIZED_BIAS: usize = 8;
}

impl Linear {
    /// The weight's values as rows `[N, K]` with `alpha` in them, from the values of the initializer as it lies.
    pub fn weight_rows(&self, values: Vec<f32>) -> Vec<f32> {
        let mut rows = match self.layout {
            Layout::OutputInput => values,
            Layout::InputOutput => (0..self.n)
                .flat_map(|column| values.iter().skip(column).step_by(self.n).take(self.k))
                .copied()
                .collect(),
        };
        if self.alpha != 1.0 {
            rows.iter_mut().for_each(|w| *w *= self.alpha);
        }
        rows
    }
}

impl QuantizedLinear {
    /// Groups in a row.
    pub fn groups(&self) -> usize {
        self.k.div_ceil(self.group_size)
    }

    /// Bytes of a row of codes.
    pub fn row_bytes(&self) -> usize {
        self.k.saturating_mul(self.format.bits() as usize).div_ceil(8)
    }
}

impl Op {
    /// The operator's type: `MatMul`, or `zqc.linear` for our own.
    pub fn kind(&self) -> &str {
        match self {
            Op::Onnx(node) => node.op_type(),
            Op::QuantizeActivation(_) => "zqc.quantize_activation",
            Op::Linear(_) => "zqc.linear",
            Op::QuantizedLinear(_) => "zqc.quantized_linear",
            Op::QuantizedGather(_) => "zqc.quantized_gather",
        }
    }

    /// The node if it is an operator of the standard ONNX domain with this type.
    pub fn as_standard(&self, op_type: &str) -> Option<&NodeProto> {
        match self {
            Op::Onnx(node) if node.op_type() == op_type && is_standard(node.domain()) => Some(node),
            _ => None,
        }
    }

    /// The standard operator `op_type` with these attributes.
    pub fn standard(op_type: &str, attributes: Vec<AttributeProto>) -> Self {
        Op::Onnx(Box::new(NodeProto {
            op_type: Some(op_type.to_string()),
            attribute: attributes,
            ..Default::default()
        }))
    }
}

/// Whether `domain` is the one of the standard operators.
pub fn is_standard(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

impl NodeProto {
    /// The subgraphs of a control-flow operator; those of a node in a [`Graph`](crate::Graph) are its regions.
    pub fn bodies(&self) -> impl Iterator<Item = &GraphProto> {
        self.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
    }

    /// As [`NodeProto::bodies`], to be changed.
    pub fn bodies_mut(&mut self) -> impl Iterator<Item = &mut GraphProto> {
        self.attribute.iter_mut().flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs))
    }

    /// The attribute of this name.
    pub fn find_attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attribute.iter().find(|a| a.name() == name)
    }

    /// The integer attribute of this name, or `default`.
    pub fn int_or(&self, name: &str, default: i64) -> i64 {
        self.find_attribute(name).and_then(|a| a.i).unwrap_or(default)
    }

    /// The float attribute of this name, or `default`.
    pub fn float_or(&self, name: &str, default: f32) -> f32 {
        self.find_attribute(name).and_then(|a| a.f).unwrap_or(default)
    }

    /// The integer-list attribute of this name.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.find_attribute(name).map(|a| a.ints.as_slice())
    }

    /// The value of the metadata property of this key.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata_props.iter().find(|entry| entry.key() == key).map(|entry| entry.value())
    }
}

/// Attributes, by kind.
pub mod attribute {
    use crate::onnx::proto::{AttributeProto, GraphProto, TensorProto, attribute_proto::AttributeType};

    fn new(name: &str, kind: AttributeType) -> AttributeProto {
        AttributeProto { name: Some(name.to_string()), r#type: Some(kind as i32), ..Default::default() }
    }

    /// An integer.
    pub fn int(name: &str, value: i64) -> AttributeProto {
        AttributeProto { i: Some(value), ..new(name, AttributeType::Int) }
    }

    /// A list of integers.
    pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
        AttributeProto { ints: values.to_vec(), ..new(name, AttributeType::Ints) }
    }

    /// A float.
    pub fn float(name: &str, value: f32) -> AttributeProto {
        AttributeProto { f: Some(value), ..new(name, AttributeType::Float) }
    }

    /// A list of floats.
    pub fn floats(name: &str, values: &[f32]) -> AttributeProto {
        AttributeProto { floats: values.to_vec(), ..new(name, AttributeType::Floats) }
    }

    /// A string.
    pub fn string(name: &str, value: &str) -> AttributeProto {
        AttributeProto { s: Some(value.as_bytes().to_vec()), ..new(name, AttributeType::String) }
    }

    /// A tensor.
    pub fn tensor(name: &str, value: TensorProto) -> AttributeProto {
        AttributeProto { t: Some(value), ..new(name, AttributeType::Tensor) }
    }

    /// A graph, as control flow has it.
    pub fn graph(name: &str, value: GraphProto) -> AttributeProto {
        AttributeProto { g: Some(value), ..new(name, AttributeType::Graph) }
    }

    /// Inside a function body: the integer attribute `reference` of the function's caller.
    pub fn int_reference(name: &str, reference: &str) -> AttributeProto {
        AttributeProto { ref_attr_name: Some(reference.to_string()), ..new(name, AttributeType::Int) }
    }
}
