//! [`Model`] to ONNX file, at once and whole: a temporary file beside the output, then a rename.

use std::io::Write;
use std::path::{Path, PathBuf};

use prost::Message;
use tempfile::NamedTempFile;

use super::proto::{
    GraphProto, ModelProto, NodeProto, StringStringEntryProto, ValueInfoProto, tensor_proto::DataLocation,
};
use crate::graph::{Cycle, Graph, NodeId, ValueId};
use crate::model::Model;
use crate::op::Op;

/// Where the weights of a written model lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// In the model file as long as it stays below 2 GB, protobuf's limit; else as [`Storage::External`].
    #[default]
    Auto,
    /// In the model file.
    Inline,
    /// In `MODEL.onnx.data` beside the model, each tensor aligned to 4096 bytes; small ones stay inline.
    External,
}

/// Why a model was not written; nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum WriteError {
    /// The graph still has an operator that ONNX does not know.
    #[error("node {node} is not lowered to ONNX; run a lowering pass first")]
    NotLowered { node: String },
    /// The graph has a circle.
    #[error(transparent)]
    Cycle(#[from] Cycle),
    /// Protobuf readers refuse files of 2 GB and more.
    #[error(
        "the model file would take {size} bytes, over protobuf's limit of 2 GB; store the weights externally"
    )]
    TooLarge { size: usize },
    /// The operating system refused.
    #[error("cannot write {path:?}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// Protobuf implementations count message sizes in signed 32 bits.
const PROTOBUF_LIMIT: usize = i32::MAX as usize;
/// Smaller tensors stay inline, so that shape constants can be read without the data file.
const EXTERNAL_FLOOR: usize = 1024;
/// Offsets are multiples of this, so that a reader can map tensors one by one.
const ALIGNMENT: u64 = 4096;

/// Writes the model to `path`, replacing a file that is there; returns the bytes written, data file included.
///
/// # Errors
/// When the graph is not lowered or the files cannot be written; the previous file is then still whole.
pub fn write(model: &Model, path: &Path, storage: Storage) -> Result<u64, WriteError> {
    check_target(path)?;
    let mut proto = to_proto(model)?;
    let inline =
        storage == Storage::Inline || storage == Storage::Auto && proto.encoded_len() <= PROTOBUF_LIMIT;
    let data = if inline { None } else { Some(move_data_out(&mut proto, path)?) };
    let size = proto.encoded_len();
    if size > PROTOBUF_LIMIT {
        return Err(WriteError::TooLarge { size });
    }
    let file = filled(path, &proto.encode_to_vec())?;
    let mut written = size as u64;
    if let Some((data, size)) = data {
        persist(data, &data_path(path))?;
        written += size;
    }
    persist(file, path)?;
    Ok(written)
}

/// Finds out, before any work is spent, whether a file can be written at `path`.
///
/// # Errors
/// When no file can be made in its folder, or a folder is in its place.
pub fn check_writable(path: &Path) -> Result<(), WriteError> {
    check_target(path)?;
    temporary(path).map(drop)
}

/// Writes a file at once: it appears whole or not at all.
///
/// # Errors
/// When the operating system refuses.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    persist(filled(path, bytes)?, path)
}

/// The model as one protobuf message with every payload inline (shared with the model, not copied).
///
/// # Errors
/// When the graph is not lowered, or cyclic.
pub fn to_proto(model: &Model) -> Result<ModelProto, WriteError> {
    let graph = &model.graph;
    let proto = GraphProto {
        node: graph.order()?.iter().map(|&id| node_to_proto(graph, id)).collect::<Result<_, _>>()?,
        initializer: graph
            .initializers()
            .map(|(id, tensor)| tensor.to_proto(&graph.value(id).name))
            .collect(),
        input: graph.inputs.iter().map(|&id| info(graph, id)).collect(),
        ..graph.rest.clone()
    };
    Ok(ModelProto { graph: Some(proto), ..model.header.clone() })
}

/// A self-contained model of some nodes of `model`: it reads `inputs`, yields `outputs`, and carries the
/// constants that the nodes read.
///
/// # Errors
/// As [`to_proto`].
pub fn extract(
    model: &Model,
    nodes: &[NodeId],
    inputs: &[ValueId],
    outputs: &[ValueId],
) -> Result<ModelProto, WriteError> {
    let graph = &model.graph;
    let mut constants: Vec<ValueId> =
        nodes.iter().flat_map(|&id| graph.node(id).reads()).chain(outputs.iter().copied()).collect();
    constants.retain(|id| graph.initializers.contains_key(id) && !inputs.contains(id));
    constants.sort();
    constants.dedup();
    let infos = |ids: &[ValueId]| ids.iter().map(|&id| info(graph, id)).collect::<Vec<_>>();
    let proto = GraphProto {
        name: Some(graph.name().to_string()),
        node: nodes.iter().map(|&id| node_to_proto(graph, id)).collect::<Result<_, _>>()?,
        initializer: constants
            .iter()
            .map(|&id| graph.initializers[&id].to_proto(&graph.value(id).name))
            .collect(),
        input: infos(inputs),
        output: infos(outputs),
        ..Default::default()
    };
    Ok(ModelProto { graph: Some(proto), ..model.header.clone() })
}

fn info(graph: &Graph, id: ValueId) -> ValueInfoProto {
    let value = graph.value(id);
    value
        .info
        .clone()
        .unwrap_or_else(|| ValueInfoProto { name: Some(value.name.clone()), ..Default::default() })
}

/// A node as it is written, with the names of the values that it reads and defines.
///
/// # Errors
/// When it is not lowered.
pub fn node_to_proto(graph: &Graph, id: NodeId) -> Result<NodeProto, WriteError> {
    let node = graph.node(id);
    let Op::Onnx(proto) = &node.op else {
        return Err(WriteError::NotLowered { node: graph.label(id) });
    };
    let names = |ids: &[Option<ValueId>]| {
        ids.iter().map(|id| id.map_or_else(String::new, |id| graph.value(id).name.clone())).collect()
    };
    let mut proto = NodeProto::clone(proto);
    proto.input = names(node.inputs());
    proto.output = names(node.outputs());
    if proto.name() != node.name {
        proto.name = Some(node.name.clone());
    }
    Ok(proto)
}

fn data_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".data");
    name.into()
}

/// Moves payloads into a temporary data file; returns it with its size.
fn move_data_out(proto: &mut ModelProto, path: &Path) -> Result<(NamedTempFile, u64), WriteError> {
    let target = data_path(path);
    let io = |source| WriteError::Io { path: target.clone(), source };
    let location = target.file_name().and_then(|name| name.to_str());
    let location =
        location.ok_or_else(|| io(std::io::Error::other("the model names it, so it must be UTF-8")))?;
    check_target(&target)?;
    let mut file = std::io::BufWriter::new(temporary(&target)?);
    let mut offset = 0u64;
    for tensor in proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        let Some(raw) = tensor.raw_data.take_if(|raw| raw.len() >= EXTERNAL_FLOOR) else { continue };
        let padding = offset.next_multiple_of(ALIGNMENT) - offset;
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), padding), &mut file).map_err(io)?;
        file.write_all(&raw).map_err(io)?;
        let start = offset + padding;
        offset = start + raw.len() as u64;
        let entry = |key: &str, value: String| StringStringEntryProto {
            key: Some(key.to_string()),
            value: Some(value),
        };
        tensor.external_data = vec![
            entry("location", location.to_string()),
            entry("offset", start.to_string()),
            entry("length", raw.len().to_string()),
        ];
        tensor.data_location = Some(DataLocation::External as i32);
    }
    let file = file.into_inner().map_err(|error| io(error.into_error()))?;
    Ok((file, offset))
}

/// Refuses the places that no file can take.
fn check_target(path: &Path) -> Result<(), WriteError> {
    if path.is_dir() || path.file_name().is_none() {
        let source = std::io::ErrorKind::IsADirectory.into();
        return Err(WriteError::Io { path: path.to_path_buf(), source });
    }
    Ok(())
}

/// An empty file beside `path` that goes when it is dropped.
fn temporary(path: &Path) -> Result<NamedTempFile, WriteError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".zqc-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask, as any new file
    builder.tempfile_in(folder).map_err(|source| WriteError::Io { path: path.to_path_buf(), source })
}

fn filled(path: &Path, bytes: &[u8]) -> Result<NamedTempFile, WriteError> {
    let mut file = temporary(path)?;
    file.write_all(bytes).map_err(|source| WriteError::Io { path: path.to_path_buf(), source })?;
    Ok(file)
}

fn persist(file: NamedTempFile, path: &Path) -> Result<(), WriteError> {
    let io = |source| WriteError::Io { path: path.to_path_buf(), source };
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}
