//! The executor: a back end loads a [`Piece`] of a model and runs it on named [`Array`]s.
//!
//! Back ends agree on what goes in and out (host arrays by declared name), so that they can be swapped and
//! checked against each other. None of them ever sees FP8 or FP4: quantized layers are run by the caller.

use zqc_ir::onnx::proto::ModelProto;

use crate::array::{Array, ArrayError};

mod externalize;
mod fused;
mod inline;
mod interface;
#[cfg(feature = "ort")]
mod ort;
mod rten;
mod softmax;
mod visit;
mod widen;

/// A self-contained part of a model: every tensor's data is inline, and what may be fed and fetched is declared as
/// the graph's inputs and outputs. An output needs a name only.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The part as a model of its own. Cloning it shares `raw_data`, which may point into a mapped file.
    pub model: ModelProto,
}

/// A way to run pieces.
pub trait Backend: Send + Sync {
    /// The name by which [`backend`] finds it.
    fn name(&self) -> &'static str;

    /// Whether it knows the control-flow operator `op_type`: `If`, `Loop` or `Scan`.
    fn knows_control(&self, _op_type: &str) -> bool {
        true
    }

    /// Prepares a piece for running. The piece's weights are copied at most once.
    ///
    /// # Errors
    /// [`BackendError::UnsupportedNode`] when an operator cannot be run, [`BackendError::Load`] for all else.
    fn load(&self, piece: &Piece) -> Result<Box<dyn Session>, BackendError>;
}

/// A loaded piece.
pub trait Session {
    /// Feeds values to declared inputs and fetches declared outputs, in the order of `fetch`.
    ///
    /// Floats come back as `f32` whatever the model's float type; integers and booleans come back as the
    /// declared type, or as the back end computes them where the output's type is not declared.
    ///
    /// # Errors
    /// [`BackendError::UnknownInput`] and [`BackendError::UnknownOutput`] for names not declared,
    /// [`BackendError::Run`] when the computation fails.
    fn run(&mut self, feeds: &[(&str, &Array)], fetch: &[&str]) -> Result<Vec<Array>, BackendError>;
}

/// Why a piece was not run.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No back end has this name.
    #[error("there is no back end {name:?}; this build has: {}", available_backends().join(", "))]
    UnknownBackend {
        /// The name asked for.
        name: String,
    },
    /// ONNX Runtime's shared library was not found or not usable.
    #[error(
        "cannot use ONNX Runtime: {reason}; set ORT_DYLIB_PATH to libonnxruntime.so 1.24 or newer, or put a python3 \
         with the package onnxruntime on PATH, or use the back end rten"
    )]
    Library {
        /// What was tried and how it failed.
        reason: String,
    },
    /// The back end cannot run an operator of the piece.
    #[error("{backend} cannot run node {node:?} ({op_type}): {reason}; try another back end")]
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
    /// The back end refused the piece.
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
    /// A feed names no input of the piece.
    #[error("the model has no input {name:?}")]
    UnknownInput {
        /// The name fed.
        name: String,
    },
    /// A fetch names no output of the piece.
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

/// The names that [`backend`] knows in this build, the default first.
pub fn available_backends() -> &'static [&'static str] {
    if cfg!(feature = "ort") { &["rten", "ort"] } else { &["rten"] }
}

/// The back end called `name`, running on `threads` threads (by default, one for each physical core; at most one for each
/// core that this process may use, as threads without work look for some without pause).
///
/// # Errors
/// [`BackendError::UnknownBackend`], or [`BackendError::Library`] when `ort` finds no ONNX Runtime.
pub fn backend(name: &str, threads: Option<usize>) -> Result<Box<dyn Backend>, BackendError> {
    let threads = threads.map(useful_threads);
    match name {
        "rten" => Ok(Box::new(rten::Rten::new(threads))),
        #[cfg(feature = "ort")]
        "ort" => Ok(Box::new(ort::Ort::new(threads)?)),
        _ => Err(BackendError::UnknownBackend { name: name.into() }),
    }
}

/// As many of `threads` as there are cores for.
pub fn useful_threads(threads: usize) -> usize {
    std::thread::available_parallelism().map_or(threads, |cores| threads.min(cores.get()))
}
