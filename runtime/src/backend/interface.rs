//! What a back end is.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use prost::Message;
use zqc_ir::onnx::proto::ModelProto;
use zqc_ir::onnx::proto::tensor_proto::DataType;

use super::error::BackendError;
use crate::array::Array;

/// A self-contained part of a model: every tensor's data is inline, and what may be fed and fetched is declared as
/// the graph's inputs and outputs. An output needs a name only.
#[derive(Clone, Debug)]
pub struct Subgraph {
    /// The part as a model of its own. Cloning it shares `raw_data`, which may point into a mapped file.
    pub model: ModelProto,
    /// The element types of inputs that are declared without one, as far as the model that it is a part of tells.
    pub types: HashMap<String, DataType>,
}

impl Subgraph {
    /// The part as the content of an ONNX file, of up to protobuf's limit of 2 GB.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }
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

/// A loaded subgraph, which several threads may run at a time.
pub trait Session: Send + Sync {
    /// Feeds values to declared inputs and fetches declared outputs, in the order of `fetch`.
    ///
    /// Floats come back as `f32` whatever the model's float type; integers and booleans come back as the
    /// declared type, or as the back end computes them where the output's type is not declared.
    ///
    /// # Errors
    /// [`BackendError::UnknownInput`] and [`BackendError::UnknownOutput`] for names not declared,
    /// [`BackendError::UnsupportedNode`] when an operator turns out to be unknown in this form, [`BackendError::Run`] when
    /// the computation fails otherwise, [`BackendError::Both`] of `auto`.
    fn run(&self, feeds: &[(&str, &Array)], fetch: &[&str]) -> Result<Vec<Array>, BackendError>;
}
