//! What is in a model or a package: every linear layer, its format and its bits.

mod native;
mod package;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use zqc_ir::graph::Use;
use zqc_ir::op::port;
use zqc_ir::{Graph, Model, Node, NodeId, Op, operands, tensor};
use zqc_kernels::Package;
use zqc_passes::{Observer, run};
use zqc_runtime::RunError;

use crate::error::Error;
use crate::model_folder::find_model;
use crate::options::Options;
use crate::pipeline::{Phase, Pipeline};
use crate::report::KeptLayer;

/// What a table reads in place of an activation.
const INDICES: &str = "indices";

/// The linear layers of a model or a package.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The path of the model or the package.
    pub model: String,
    /// Of what kind it is.
    #[serde(flatten)]
    pub file: InspectedFile,
    /// Every linear layer, in the order of the graph.
    pub linears: Vec<LinearSummary>,
    /// What has a constant matrix and is not compiled, with the reason.
    pub kept: Vec<KeptLayer>,
    /// Weights in linear layers.
    pub weights: usize,
    /// Mean bits per weight over all linear layers, everything counted.
    pub bits_per_weight: f64,
    /// Size of all constants, or of the package's weights, in bytes.
    pub constant_bytes: u64,
}

/// What holds linear layers.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
#[serde(untagged)]
pub enum InspectedFile {
    /// An ONNX model.
    Onnx {
        /// Version of the standard operators.
        opset: i64,
        /// Nodes of the main graph.
        nodes: usize,
    },
    /// A CUDA package.
    Package {
        /// Version of the package format.
        package_version: u32,
        /// Version of the zqc that wrote it.
        zqc_version: String,
        /// Quantized activations that the layers read.
        activations: usize,
    },
}

/// One linear layer, or a quantized table that no layer shares.
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
    /// `grouped` for a scale of its own for every group, else the ladder on which the scales of a row lie: `m2` or
    /// `m3`; absent for float layers.
    pub scales: Option<String>,
    /// Whether every group has a zero point.
    pub zero_points: bool,
    /// Rank of the low-rank branch; 0 without one.
    pub rank: usize,
    /// Number format of the activation: `e4m3`, `e5m2`, `int8`; absent for one in float, and `indices` for a table that rows are
    /// looked up in.
    pub activations: Option<String>,
    /// Bits per weight, everything but the bias counted; in a package, the padding too.
    pub bits_per_weight: f64,
    /// Whether the layer has a bias.
    pub bias: bool,
}

/// Lists the linear layers of the model in the file `path`, or of the model or the CUDA package in the folder.
///
/// # Errors
/// When there is no valid model, or the package is damaged.
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    match Package::is_at(path) {
        true => package::inspect(path),
        false => inspect_model(&find_model(path)?),
    }
}

fn inspect_model(path: &Path) -> Result<Inspection, Error> {
    let mut model = zqc_ir::read(path)?;
    let nodes = model.graph.nodes().count();
    let constants = model.graph.initializers();
    let constant_bytes = constants.map(|(_, tensor)| tensor.byte_len().unwrap_or(0) as u64).sum();
    let mut layers = Layers::default();
    layers.find(&mut model)?;
    let file = InspectedFile::Onnx { opset: model.opset(), nodes };
    Ok(Inspection::new(path, file, layers, constant_bytes))
}

/// The layers that are found.
#[derive(Default)]
struct Layers {
    linears: Vec<LinearSummary>,
    kept: Vec<KeptLayer>,
}

impl Layers {
    /// Adds those of a model and of its regions, which come after those around them.
    fn find(&mut self, model: &mut Model) -> Result<(), Error> {
        let mut regions: Vec<Model> = model.graph.regions().filter_map(|(id, _)| model.region(id)).collect();
        let native = native::Layers::of(&model.graph);
        let mut kept = Kept(Vec::new());
        let mut pipeline = Pipeline::for_options(&Options::default());
        pipeline.remove("select")?;
        pipeline.passes(Phase::FindLayers).try_for_each(|pass| run(pass, model, &mut kept))?;
        // What is native is quantized by us, and in the list.
        self.kept.extend(kept.0.into_iter().filter(|_| native.summaries.is_empty()));
        let graph = &model.graph;
        let order = graph.order().map_err(RunError::from)?;
        let layers =
            order.into_iter().map(|id| LinearSummary::of(graph, id, &native)).filter_map(Result::transpose);
        self.linears.extend(layers.collect::<Result<Vec<_>, _>>()?);
        regions.iter_mut().try_for_each(|region| self.find(region))
    }
}

/// Hears what the finders leave.
struct Kept(Vec<KeptLayer>);

impl Observer for Kept {
    fn layer_kept(&mut self, layer: &str, reason: &str) {
        self.0.push(KeptLayer { layer: layer.to_string(), reason: reason.to_string() });
    }
}

impl Inspection {
    /// What is not compiled, by the reason.
    pub fn kept_by_reason(&self) -> BTreeMap<&str, Vec<&str>> {
        KeptLayer::by_reason(&self.kept)
    }

    fn new(path: &Path, file: InspectedFile, layers: Layers, constant_bytes: u64) -> Self {
        let Layers { linears, kept } = layers;
        let weights = linears.iter().map(|linear| linear.k * linear.n).sum();
        let bits = |linear: &LinearSummary| (linear.k * linear.n) as f64 * linear.bits_per_weight;
        let bits: f64 = linears.iter().map(bits).sum();
        Self {
            model: path.display().to_string(),
            file,
            linears,
            kept,
            weights,
            bits_per_weight: if weights == 0 { 0.0 } else { bits / weights as f64 },
            constant_bytes,
        }
    }
}

impl LinearSummary {
    /// The layer that the node is, if it is one.
    fn of(graph: &Graph, id: NodeId, native: &native::Layers) -> Result<Option<Self>, RunError> {
        let node = graph.node(id);
        let product = node.output(0).map_or("", |product| graph.value(product).name.as_str());
        if let Some(summary) = native.summaries.get(product) {
            return Ok(Some(summary.clone()));
        }
        if native.branches.contains(product) {
            return Ok(None);
        }
        let summary = match &node.op {
            Op::Linear(linear) => Self {
                layer: linear.layer.clone(),
                k: linear.k,
                n: linear.n,
                format: tensor::name(linear.dtype).to_string(),
                group_size: None,
                scales: None,
                zero_points: false,
                rank: 0,
                activations: None,
                bits_per_weight: tensor::bits(linear.dtype).unwrap_or(0) as f64,
                bias: node.input(port::LINEAR_BIAS).is_some(),
            },
            // The codes of a tied table are those of the head.
            Op::QuantizedGather(_) if is_tied(graph, node) => return Ok(None),
            Op::QuantizedLinear(linear) | Op::QuantizedGather(linear) => {
                let unreadable = |source| RunError::Operand { node: graph.label(id), source };
                let matrix = operands::matrix(graph, node, linear).map_err(unreadable)?;
                let branch = operands::low_rank(graph, node, linear).map_err(unreadable)?;
                let looks_up = matches!(node.op, Op::QuantizedGather(_)).then(|| INDICES.to_string());
                let producer = node.input(port::X).and_then(|x| graph.producer(x));
                let activations = producer.and_then(|producer| match &graph.node(producer).op {
                    Op::QuantizeActivation(quantize) => Some(quantize.format.to_string()),
                    _ => None,
                });
                Self {
                    layer: linear.layer.clone(),
                    k: linear.k,
                    n: linear.n,
                    format: linear.format.to_string(),
                    group_size: Some(linear.group_size),
                    scales: Some(linear.ladder.map_or("grouped".to_string(), |ladder| ladder.to_string())),
                    zero_points: matrix.zero_points.is_some(),
                    rank: linear.rank,
                    activations: looks_up.or(activations),
                    bits_per_weight: matrix.bits_per_weight()
                        + branch.map_or(0.0, |branch| branch.bits_per_weight()),
                    bias: node.input(port::QUANTIZED_BIAS).is_some(),
                }
            }
            Op::Onnx(_) | Op::QuantizeActivation(_) => return Ok(None),
        };
        Ok(Some(summary))
    }
}

/// Whether a layer reads the table that `gather` looks rows up in.
fn is_tied(graph: &Graph, gather: &Node) -> bool {
    let is_layer = |place: &Use| matches!(graph.node(place.node).op, Op::QuantizedLinear(_));
    gather.input(port::WEIGHT).is_some_and(|codes| graph.uses(codes).iter().any(is_layer))
}
