//! ONNX file to [`Model`]: weights are not copied, and nothing that the file says is dropped.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use super::external::{ExternalError, ExternalFiles, map};
use super::proto::{GraphProto, ModelProto};
use crate::graph::{Graph, Source, ValueId};
use crate::model::Model;
use crate::op::Op;
use crate::tensor::{Tensor, TensorError};
use crate::verify::{Faults, verify};

/// Why a file cannot be read as a model.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum ReadError {
    /// The file cannot be opened or mapped.
    #[error("cannot read {path:?}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The bytes are no ONNX protobuf.
    #[error("{path:?} is not an ONNX model, or it is truncated: {source}")]
    Decode { path: PathBuf, source: prost::DecodeError },
    /// Decodes as protobuf, and has no graph in it.
    #[error("this is not an ONNX model: it has no {missing}")]
    NotAModel { missing: &'static str },
    /// A constant of the graph is broken.
    #[error("initializer \"{tensor}\": {source}; export the model again")]
    Tensor { tensor: String, source: TensorError },
    /// A constant's external payload cannot be had.
    #[error("initializer \"{tensor}\": {source}")]
    External { tensor: String, source: ExternalError },
    /// Two definitions of one name.
    #[error("value \"{value}\" is defined twice; every value of an ONNX graph has one definition")]
    Redefined { value: String },
    /// The graph breaks the rules of ONNX.
    #[error("this is not a valid ONNX graph: {0}")]
    Invalid(#[from] Faults),
}

/// Reads a model; the file and its external data are mapped and must not change while the model lives.
///
/// # Errors
/// When the file or one that it names is missing, truncated or malformed, or the graph is not valid.
pub fn read(path: &Path) -> Result<Model, ReadError> {
    let io = |source| ReadError::Io { path: path.to_path_buf(), source };
    let bytes = map(path).map_err(io)?;
    let proto =
        ModelProto::decode(bytes).map_err(|source| ReadError::Decode { path: path.to_path_buf(), source })?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    model_from_proto(proto, Some(&mut ExternalFiles::new(folder)))
}

/// The model that a protobuf message in memory holds; its constants must all be inline.
///
/// # Errors
/// When the message lacks a graph, a constant is malformed or external, or the graph is not valid.
pub fn from_proto(proto: ModelProto) -> Result<Model, ReadError> {
    model_from_proto(proto, None)
}

fn model_from_proto(mut header: ModelProto, files: Option<&mut ExternalFiles>) -> Result<Model, ReadError> {
    let proto = header.graph.take().ok_or(ReadError::NotAModel { missing: "graph" })?;
    if header.ir_version.is_none() {
        return Err(ReadError::NotAModel { missing: "IR version" });
    }
    if header.opset_import.is_empty() {
        return Err(ReadError::NotAModel { missing: "opset import" });
    }
    let mut graph = graph_from_proto(proto, files)?;
    graph.inputs_list_constants = header.ir_version() < 4;
    let model = Model { graph, header };
    verify(&model)?;
    Ok(model)
}

fn graph_from_proto(
    mut proto: GraphProto,
    mut files: Option<&mut ExternalFiles>,
) -> Result<Graph, ReadError> {
    let mut graph = Graph::default();
    let redefined = |graph: &Graph, id| ReadError::Redefined { value: graph.value(id).name.clone() };
    for info in std::mem::take(&mut proto.input) {
        let id = graph.intern(info.name());
        if !graph.define(id, Source::Input) {
            return Err(redefined(&graph, id));
        }
        graph.value_mut(id).info = Some(info);
        graph.inputs.push(id);
    }
    for mut tensor in std::mem::take(&mut proto.initializer) {
        let name = tensor.name.take().unwrap_or_default();
        let id = graph.intern(&name);
        graph.define(id, Source::Initializer);
        let external = external_payload(&name, &tensor, files.as_deref_mut())?;
        let tensor = Tensor::from_proto(tensor, external);
        tensor.check().map_err(|source| ReadError::Tensor { tensor: name, source })?;
        if graph.initializers.insert(id, tensor).is_some() {
            return Err(redefined(&graph, id));
        }
    }
    for sparse in &proto.sparse_initializer {
        let id = graph.intern(sparse.values.as_ref().map_or("", |values| values.name()));
        if !graph.define(id, Source::Initializer) {
            return Err(redefined(&graph, id));
        }
    }
    for (rank, mut node) in std::mem::take(&mut proto.node).into_iter().enumerate() {
        let mut connect = |names: Vec<String>| -> Vec<Option<ValueId>> {
            names.iter().map(|name| (!name.is_empty()).then(|| graph.intern(name))).collect()
        };
        let (inputs, outputs) =
            (connect(std::mem::take(&mut node.input)), connect(std::mem::take(&mut node.output)));
        let name = node.name().to_string();
        let op = Op::Onnx(Box::new(node));
        graph.insert(&name, op, inputs, outputs, Some(rank as u32)).map_err(|id| redefined(&graph, id))?;
    }
    for info in std::mem::take(&mut proto.value_info) {
        let id = graph.intern(info.name());
        graph.value_mut(id).info = Some(info);
        graph.typed.push(id);
    }
    for info in std::mem::take(&mut proto.output) {
        let id = graph.intern(info.name());
        graph.value_mut(id).info = Some(info);
        graph.outputs.push(id);
    }
    graph.rest = proto;
    Ok(graph)
}

fn external_payload(
    name: &str,
    proto: &super::proto::TensorProto,
    files: Option<&mut ExternalFiles>,
) -> Result<Option<Bytes>, ReadError> {
    let tensor = Tensor::from_proto(proto.clone(), None);
    if !tensor.is_external() {
        return Ok(None);
    }
    let broken = |source| ReadError::Tensor { tensor: name.to_string(), source };
    let size = tensor.byte_len().map_err(broken)?;
    let files = files.ok_or_else(|| broken(TensorError::NotLoaded))?;
    let payload =
        files.load(proto, size).map_err(|source| ReadError::External { tensor: name.to_string(), source })?;
    Ok(Some(payload))
}

#[cfg(test)]
mod tests {
    use super::super::proto::{OperatorSetIdProto, TensorProto, tensor_proto::DataLocation};
    use super::*;

    #[test]
    fn a_message_in_memory_has_no_external_data() {
        let weight = TensorProto {
            name: Some("w".to_string()),
            dims: vec![2],
            data_type: Some(1),
            data_location: Some(DataLocation::External as i32),
            ..Default::default()
        };
        let mut proto = ModelProto {
            ir_version: Some(10),
            opset_import: vec![OperatorSetIdProto { version: Some(20), ..Default::default() }],
            graph: Some(GraphProto { initializer: vec![weight], ..Default::default() }),
            ..Default::default()
        };
        let error = from_proto(proto.clone()).unwrap_err();
        assert!(matches!(error, ReadError::Tensor { source: TensorError::NotLoaded, .. }), "{error}");
        proto.graph = None;
        assert!(matches!(from_proto(proto), Err(ReadError::NotAModel { missing: "graph" })));
    }
}
