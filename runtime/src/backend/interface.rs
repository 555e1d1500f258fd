//! What a back end is, and how it fails.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use zqc_ir::onnx::proto::ModelProto;
use zqc_ir::onnx::proto::tensor_proto::DataType;

use super::ort::LibraryError;
use crate::array::{Array, ArrayError};

/// A self-contained part of a model: every tensor's data is inline, and what may be fed and fetched is declared as
/// the graph's inputs and outputs. An output needs a name only.
#[derive(Clone, Debug)]
pub struct Subgraph {
    /// The part as a model of its own. Cloning it shares `raw_data`, which may point into a mapped file.
    pub model: ModelProto,
    /// The element types of inputs that are declared without one, as far as the model that it is a part of tells.
    pub types: HashMap<String, DataType>,
}

impl From<ModelProto> for Subgraph {
    /// A model that is whole: its inputs are declared with their types.
    fn from(model: ModelProto) -> Self {
        Self { model, types: HashMap::new() }
    }
}

/// A way to run subgraphs.
pub trait Backend: Send + Sync {
    /// The name by which [`backend`](super::backend()) finds it.
    fn name(&self) -> &'static str;

    /// Whether it knows the control-flow operator `op_type`: `If`, `Loop` or `Scan`.
    fn knows_control(&self, _op_type: &str) -> bool {
        true
    }

    /// The library that it has found and run subgraphs with; `None` as long as what is built in was enough.
    fn used_library(&self) -> Option<UsedLibrary> {
        None
    }

    /// Prepares a subgraph for running. The subgraph's weights are copied at most once.
    ///
    /// # Errors
    /// [`BackendError::UnsupportedNode`] when an operator cannot be run, [`BackendError::Load`] for all else,
    /// [`BackendError::Both`] of `auto`.
    fn load(&self, subgraph: &Subgraph) -> Result<Box<dyn Session>, BackendError>;
}

/// A library that was loaded to run subgraphs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedLibrary {
    /// Where it lies.
    pub path: PathBuf,
    /// Its version, where its file name tells.
    pub version: Option<String>,
    /// The operators for which it was needed; none where it runs all.
    pub operators: BTreeSet<String>,
}

/// A loaded subgraph.
pub trait Session {
    /// Feeds values to declared inputs and fetches declared outputs, in the order of `fetch`.
    ///
    /// Floats come back as `f32` whatever the model's float type; integers and booleans come back as the
    /// declared type, or as the back end computes them where the output's type is not declared.
    ///
    /// # Errors
    /// [`BackendError::UnknownInput`] and [`BackendError::UnknownOutput`] for names not declared,
    /// [`BackendError::UnsupportedNode`] when an operator turns out to be unknown in this form, [`BackendError::Run`] when
    /// the computation fails otherwise, [`BackendError::Both`] of `auto`.
    fn run(&mut self, feeds: &[(&str, &Array)], fetch: &[&str]) -> Result<Vec<Array>, BackendError>;
}

/// Why a subgraph was not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No back end has this name.
    #[error("there is no back end {name:?}; there are: {}", available_backends().join(", "))]
    UnknownBackend {
        /// The name asked for.
        name: String,
    },
    /// ONNX Runtime's shared library was not found or not usable.
    #[error("{0}; or use the back end rten")]
    Library(LibraryError),
    /// The back end cannot run an operator of the subgraph.
    #[error("{backend} cannot run node {node:?} ({op_type}): {reason}")]
    UnsupportedNode {
        /// Name of the back end.
        backend: &'static str,
        /// Name of the node.
        node: String,
        /// Its operator type.
        op_type: String,
        /// What the back end says.
        reason: String,
    },
    /// The back end refused the subgraph.
    #[error("{backend} cannot load the model: {reason}")]
    Load {
        /// Name of the back end.
        backend: &'static str,
        /// What the back end says, with the node or tensor where known.
        reason: String,
    },
    /// The computation failed.
    #[error("{backend} failed while running: {reason}")]
    Run {
        /// Name of the back end.
        backend: &'static str,
        /// What the back end says, with the node where known.
        reason: String,
    },
    /// The back end came to an end that it does not foresee.
    #[error("{backend} failed: {reason}")]
    Panic {
        /// Name of the back end.
        backend: &'static str,
        /// What it said.
        reason: String,
    },
    /// Neither back end of `auto` can run the subgraph.
    #[error("{rten}; {ort}")]
    Both {
        /// What rten says.
        rten: Box<BackendError>,
        /// What ONNX Runtime says, or why there is none.
        ort: String,
    },
    /// A feed names no input of the subgraph.
    #[error("the model has no input {name:?}")]
    UnknownInput {
        /// The name fed.
        name: String,
    },
    /// A fetch names no output of the subgraph.
    #[error("the model has no output {name:?}")]
    UnknownOutput {
        /// The name fetched.
        name: String,
    },
    /// A fed or fetched array has no form on the other side.
    #[error("value {name:?}: {source}")]
    Value {
        /// Name of the input or output.
        name: String,
        /// What is wrong with the array.
        source: ArrayError,
    },
}

impl BackendError {
    /// The node that is refused and its operator type, where the back end names it.
    pub fn node(&self) -> Option<(&str, &str)> {
        match self {
            Self::UnsupportedNode { node, op_type, .. } => Some((node, op_type)),
            Self::Both { rten, .. } => rten.node(),
            _ => None,
        }
    }

    /// Whether the back end lacks something, whatever the data: what needs the subgraph cannot be run. Otherwise the data may be
    /// what is wrong.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::UnsupportedNode { .. } | Self::Load { .. } | Self::Panic { .. } => true,
            Self::Both { rten, .. } => rten.is_refusal(),
            _ => false,
        }
    }

    /// Whether another back end may get along with what this one failed on.
    pub(super) fn is_of_the_backend(&self) -> bool {
        self.is_refusal() || matches!(self, Self::Run { .. })
    }

    /// This error of rten, after which ONNX Runtime failed too.
    pub(super) fn and(self, ort: String) -> Self {
        Self::Both { rten: Box::new(self), ort }
    }
}

/// The names that [`backend`](super::backend()) knows, the default first.
pub fn available_backends() -> &'static [&'static str] {
    &["auto", "rten", "ort"]
}
