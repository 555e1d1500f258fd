//! A quantized graph to a package.

use std::path::Path;

use indexmap::IndexMap;
use zqc_ir::graph::Cycle;
use zqc_ir::op::{Linear, QuantizedLinear, port};
use zqc_ir::operands::{self, OperandError};
use zqc_ir::{Graph, NodeId, Op, ValueId};
use zqc_numerics::ActivationFormat;

use crate::bias;
use crate::writer::{LayerParts, PackageWriter, WriteError};

/// Why a graph does not become a package; what was in its place is as it was.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// A layer cannot be packed, or the package not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The graph has a circle.
    #[error(transparent)]
    Cycle(#[from] Cycle),
    /// The operands of a layer cannot be read.
    #[error("layer {layer}: {source}")]
    Operand {
        /// The layer.
        layer: String,
        /// Why.
        source: OperandError,
    },
    /// A layer reads an activation that kernels do not take.
    #[error(
        "layer {layer}: it reads its activation as {found}, and kernels take e4m3; use --activations fp8"
    )]
    Activation {
        /// The layer.
        layer: String,
        /// The format of the activation.
        found: String,
    },
    /// The bias of a layer depends on the token, or on the input of the model.
    #[error(
        "layer {layer}: its bias is no constant of one value or {n}, which is all that a package holds; leave the layer in \
         float with --keep"
    )]
    Bias {
        /// The layer.
        layer: String,
        /// Its output features.
        n: usize,
    },
}

/// Finds out, before any weight is solved, whether the linear layers of a graph can be packed as far as their form shows it.
///
/// # Errors
/// [`EmitError::Bias`].
pub fn check(graph: &Graph) -> Result<(), EmitError> {
    for (_, node) in graph.nodes() {
        let Op::Linear(Linear { layer, n, beta, .. }) = &node.op else { continue };
        constant_bias(graph, node.input(port::LINEAR_BIAS), layer, *beta, *n)?;
    }
    Ok(())
}

/// Writes the quantized layers of a graph as a package; returns its size.
///
/// # Errors
/// When a layer cannot be packed, or the package not be written.
pub fn write(graph: &Graph, folder: &Path) -> Result<u64, EmitError> {
    let mut writer = PackageWriter::new(folder).map_err(WriteError::from)?;
    let mut readers: IndexMap<Option<ValueId>, Vec<(NodeId, &QuantizedLinear)>> = IndexMap::new();
    for id in graph.order()? {
        let node = graph.node(id);
        if let Op::QuantizedLinear(linear) = &node.op {
            readers.entry(node.input(port::X)).or_default().push((id, linear));
        }
    }
    for (x, layers) in readers {
        let found = x.and_then(|x| graph.producer(x)).and_then(|producer| match &graph.node(producer).op {
            Op::QuantizeActivation(quantize) => Some(quantize.format),
            _ => None,
        });
        if let (Some((_, first)), true) = (layers.first(), found != Some(ActivationFormat::E4M3)) {
            let found = found.map_or("float".to_string(), |format| format.to_string());
            return Err(EmitError::Activation { layer: first.layer.clone(), found });
        }
        let layers = layers.into_iter().map(|(id, linear)| parts(graph, id, linear));
        writer.add(&layers.collect::<Result<Vec<_>, _>>()?)?;
    }
    Ok(writer.finish()?)
}

/// What a package needs of a layer.
fn parts(graph: &Graph, id: NodeId, linear: &QuantizedLinear) -> Result<LayerParts, EmitError> {
    let node = graph.node(id);
    let unreadable = |source| EmitError::Operand { layer: linear.layer.clone(), source };
    Ok(LayerParts {
        name: linear.layer.clone(),
        matrix: operands::matrix(graph, node, linear).map_err(unreadable)?,
        low_rank: operands::low_rank(graph, node, linear).map_err(unreadable)?,
        bias: constant_bias(graph, node.input(port::QUANTIZED_BIAS), &linear.layer, linear.beta, linear.n)?,
    })
}

fn constant_bias(
    graph: &Graph,
    bias: Option<ValueId>,
    layer: &str,
    beta: f32,
    n: usize,
) -> Result<Option<Vec<f32>>, EmitError> {
    let Some(bias) = bias else { return Ok(None) };
    let refused = || EmitError::Bias { layer: layer.to_string(), n };
    bias::constant(graph, bias, beta, n).map(Some).ok_or_else(refused)
}
