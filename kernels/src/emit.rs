//! A quantized graph to a package.

use std::path::Path;

use indexmap::IndexMap;
use zqc_formats::ActivationFormat;
use zqc_ir::graph::Cycle;
use zqc_ir::op::{QuantizedLinear, port};
use zqc_ir::operands::{self, OperandError};
use zqc_ir::{Graph, NodeId, Op, ValueId};

use crate::bias;
use crate::contents::LayerParts;
use crate::writer::{PackageWriter, StagedPackage, WriteError};

/// Why a graph does not become a package; what was in its place is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// A layer cannot be packed, or the package not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The graph has a cycle.
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

/// Writes the quantized layers of a graph as a package at `folder`; returns its size in bytes.
///
/// # Errors
/// When a layer cannot be packed, or the package not be written.
pub fn write(graph: &Graph, folder: &Path) -> Result<u64, EmitError> {
    Ok(stage(graph, folder)?.commit()?)
}

/// The same, but leaves the package beside its place, to be checked before it is put there.
///
/// # Errors
/// When a layer cannot be packed, or the package not be written.
pub fn stage(graph: &Graph, folder: &Path) -> Result<StagedPackage, EmitError> {
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
    Ok(writer.stage()?)
}

/// What a package needs of a layer.
fn parts(graph: &Graph, id: NodeId, linear: &QuantizedLinear) -> Result<LayerParts, EmitError> {
    let &QuantizedLinear { n, beta, ref layer, .. } = linear;
    let node = graph.node(id);
    let unreadable = |source| EmitError::Operand { layer: layer.clone(), source };
    let bias = node.input(port::QUANTIZED_BIAS).map(|bias| {
        bias::constant(graph, bias, beta, n).ok_or_else(|| EmitError::Bias { layer: layer.clone(), n })
    });
    Ok(LayerParts {
        name: layer.clone(),
        matrix: operands::matrix(graph, node, linear).map_err(unreadable)?,
        low_rank: operands::low_rank(graph, node, linear).map_err(unreadable)?,
        bias: bias.transpose()?,
    })
}
