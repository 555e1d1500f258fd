//! What is in a model: every linear layer, its format and its bits.

use std::path::Path;

use serde::Serialize;
use zqc_ir::{Op, onnx};
use zqc_passes::{Canonicalize, RaisePortable, Silent, run};

use crate::error::Error;

/// The linear layers of a model.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The model's path.
    pub model: String,
    /// Version of the standard operators.
    pub opset: i64,
    /// Nodes of the main graph.
    pub nodes: usize,
    /// Every linear layer, in the order of the graph.
    pub linears: Vec<LinearSummary>,
    /// Weights in linear layers.
    pub weights: usize,
    /// Mean bits per weight over all linear layers, scales included.
    pub bits_per_weight: f64,
    /// Size of all constants, in bytes.
    pub constant_bytes: u64,
}

/// One linear layer.
#[derive(Debug, Clone, Serialize)]
pub struct LinearSummary {
    /// Path in the source model.
    pub layer: String,
    /// Input features.
    pub k: usize,
    /// Output features.
    pub n: usize,
    /// Number format of the weight: `f32`, `f16`, `e2m1` ...
    pub format: String,
    /// Weights that share a scale; absent for float layers.
    pub group_size: Option<usize>,
    /// Bits per weight, scales included.
    pub bits_per_weight: f64,
    /// Whether the layer has a bias.
    pub bias: bool,
}

/// Lists the linear layers of the model in `path`.
///
/// # Errors
/// When the file is no valid model.
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    let mut model = onnx::read(path)?;
    let nodes = model.graph.nodes().count();
    run(&RaisePortable, &mut model, &mut Silent)?;
    run(&Canonicalize, &mut model, &mut Silent)?;
    let graph = &model.graph;
    let mut linears = Vec::new();
    for id in graph.order().map_err(zqc_runtime::RunError::from)? {
        let node = graph.node(id);
        linears.extend(match &node.op {
            Op::Linear(linear) => Some(LinearSummary {
                layer: linear.layer.clone(),
                k: linear.k,
                n: linear.n,
                format: zqc_ir::tensor::name(linear.dtype).to_string(),
                group_size: None,
                bits_per_weight: zqc_ir::tensor::bits(linear.dtype).unwrap_or(0) as f64,
                bias: node.input(zqc_ir::op::port::LINEAR_BIAS).is_some(),
            }),
            Op::QuantizedLinear(linear) => Some(LinearSummary {
                layer: linear.layer.clone(),
                k: linear.k,
                n: linear.n,
                format: linear.format.to_string(),
                group_size: Some(linear.group_size),
                bits_per_weight: f64::from(linear.format.bits())
                    + 32.0 * linear.groups() as f64 / linear.k as f64,
                bias: node.input(zqc_ir::op::port::QUANTIZED_BIAS).is_some(),
            }),
            _ => None,
        });
    }
    let weights = linears.iter().map(|linear| linear.k * linear.n).sum();
    let bits: f64 = linears.iter().map(|linear| (linear.k * linear.n) as f64 * linear.bits_per_weight).sum();
    let constant_bytes = graph.initializers().map(|(_, tensor)| tensor.byte_len().unwrap_or(0) as u64).sum();
    Ok(Inspection {
        model: path.display().to_string(),
        opset: model.opset(),
        nodes,
        linears,
        weights,
        bits_per_weight: if weights == 0 { 0.0 } else { bits / weights as f64 },
        constant_bytes,
    })
}
