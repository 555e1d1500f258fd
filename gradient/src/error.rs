//! Why there is no gradient.

use zqc_ir::graph::Cycle;
use zqc_ir::patch::PatchError;
use zqc_ir::types::Type;
use zqc_ir::verify::Faults;

/// Why a model cannot be differentiated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages name the fields
pub enum GradientError {
    /// The gradient's nodes would mean something else under the model's opset.
    #[error(
        "the model imports opset {found}, and gradients are written in opset 13 and later; export the model again with a later one"
    )]
    Opset { found: i64 },
    /// A value that is no tensor of floating-point numbers has no gradient.
    #[error(
        "value \"{value}\" is of type {ty}, and only floating-point values have gradients; name another value"
    )]
    NotFloat { value: String, ty: Box<Type> },
    /// Nothing defines the value.
    #[error("nothing defines value \"{value}\"; name one that the graph computes or reads")]
    Undefined { value: String },
    /// A block cannot begin at a value that a subgraph reads: it is read there by its name.
    #[error("a subgraph reads value \"{value}\", and a block cannot begin there; choose another boundary")]
    Captured { value: String },
    /// The graph has no order in which its nodes can run.
    #[error(transparent)]
    Cycle(#[from] Cycle),
    /// The fault of a rule: the nodes of the gradient do not fit the graph.
    #[error("the gradient does not fit the graph: {0}; this is a fault of zqc, please report it")]
    Patch(#[from] PatchError),
    /// The fault of a rule: the result is not a valid graph.
    #[error("the gradient is not a valid graph: {0}; this is a fault of zqc, please report it")]
    Invalid(#[from] Faults),
}
