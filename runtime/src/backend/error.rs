//! How a back end fails.

use std::path::PathBuf;

use crate::array::ArrayError;

/// Why a subgraph was not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No back end has this name.
    #[error("there is no back end {name:?}; there are: {}", super::available_backends().join(", "))]
    UnknownBackend {
        /// The name asked for.
        name: String,
    },
    /// The back end was left out of this build.
    #[error(
        "this build has no back end {name:?}: build with the feature `{feature}`, or give a back end of your own \
         (Compiler::with_backend)"
    )]
    NotBuilt {
        /// The name asked for.
        name: &'static str,
        /// The feature of the crates zqc and zqc-runtime that it belongs to.
        feature: &'static str,
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
}

/// Why there is no ONNX Runtime.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// There is none where it is looked for.
    #[error(
        "ONNX Runtime was not found ({tried}); get it by `pip install onnxruntime`, or set ORT_DYLIB_PATH to \
         libonnxruntime.so 1.24 or newer"
    )]
    NotFound {
        /// The places, each with what is wrong there.
        tried: String,
    },
    /// It is older than the interface that it is called by.
    #[error(
        "ONNX Runtime {version} ({path:?}) is too old: 1.24 or newer is needed; get it by `pip install --upgrade \
         onnxruntime`, or set ORT_DYLIB_PATH to another"
    )]
    Old {
        /// The library.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// It cannot be loaded.
    #[error(
        "ONNX Runtime cannot be loaded: {reason}; get it by `pip install onnxruntime`, or set ORT_DYLIB_PATH to \
         another"
    )]
    Unusable {
        /// What the loader says, with the path.
        reason: String,
    },
}
