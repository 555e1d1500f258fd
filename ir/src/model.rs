//! A model: one graph, and what the file says around it.

use bytes::Bytes;

use crate::graph::Graph;
use crate::onnx::proto::{FunctionProto, ModelProto, OperatorSetIdProto};
use crate::op::is_standard;

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
        self.header.opset_import.iter().find(|o| is_standard(o.domain())).map_or(1, |o| o.version())
    }

    /// Imports `version` of `domain`, in place of any other version.
    pub fn import_opset(&mut self, domain: &str, version: i64) {
        let same = |o: &&mut OperatorSetIdProto| {
            o.domain() == domain || is_standard(o.domain()) && is_standard(domain)
        };
        match self.header.opset_import.iter_mut().find(same) {
            Some(import) => import.version = Some(version),
            None => self
                .header
                .opset_import
                .push(OperatorSetIdProto { domain: Some(domain.to_string()), version: Some(version) }),
        }
    }

    /// The model-local function that a call of `domain::name` means.
    pub fn function(&self, domain: &str, name: &str) -> Option<&FunctionProto> {
        self.header.functions.iter().find(|f| f.domain() == domain && f.name() == name)
    }
}
