//! Why a graph could not be run.

use zqc_ir::onnx::WriteError;
use zqc_ir::operands::OperandError;

use crate::backend::BackendError;

/// Why a graph could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages name the fields
pub enum RunError {
    /// A stage cannot be cut out of the graph.
    #[error(transparent)]
    Extract(#[from] WriteError),
    /// The graph has a cycle.
    #[error(transparent)]
    Cycle(#[from] zqc_ir::graph::Cycle),
    /// The back end failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A constant operand of one of our operators cannot be read.
    #[error("node {node}: {source}")]
    Operand { node: String, source: OperandError },
    /// An activation does not have the shape or type that its layer needs.
    #[error("node {node}: its input is {found}, expected float values [..., {expected}]")]
    Activation { node: String, found: String, expected: usize },
    /// The indices of a gather are not integers.
    #[error("node {node}: its indices are {found}, expected integers")]
    Indices { node: String, found: String },
    /// What a layer reads is not finite.
    #[error("node {node}: its input holds NaN or infinity")]
    NotFinite { node: String },
    /// Control flow is not as ONNX defines it, or does not end in time.
    #[error("node {node}: {reason}")]
    Control { node: String, reason: String },
    /// A `run_*` function was called on a node of another kind.
    #[error("node {node} is no {expected}")]
    Kind { node: String, expected: &'static str },
    /// A value that a stage reads was not fed.
    #[error("value \"{value}\" is read and was not fed; give it in the calibration or evaluation data")]
    NotFed { value: String },
}
