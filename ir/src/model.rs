//! A model: one graph, and what the file says around it.

use bytes::Bytes;

use crate::graph::Graph;
use crate::onnx::proto::{FunctionProto, ModelProto};
use crate::opset;

/// A model file in memory. Weights stay in the mapped files.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The main graph.
    pub graph: Graph,
    /// Versions, producer, opset imports, functions, metadata: all of the file but the graph.
    pub header: ModelProto,
    /// Size of the file that it was read from and of the external data; 0 when it comes from memory.
    pub source_bytes: u64,
    /// The file that it was read from, if a newer schema was used there: the writer takes from it what ours lacks.
    pub(crate) newer: Option<Bytes>,
}

impl Model {
    /// The imported version of the standard operators; 1 when the file imports none, as ONNX defines it.
    pub fn opset(&self) -> i64 {
        opset::version(&self.header.opset_import, "").unwrap_or(1)
    }

    /// Imports `version` of `domain`, in place of any other version.
    pub fn import_opset(&mut self, domain: &str, version: i64) {
        opset::import(&mut self.header.opset_import, domain, version);
    }

    /// The model-local function that a call of `domain::name` means.
    pub fn function(&self, domain: &str, name: &str) -> Option<&FunctionProto> {
        self.header.functions.iter().find(|f| f.domain() == domain && f.name() == name)
    }
}
