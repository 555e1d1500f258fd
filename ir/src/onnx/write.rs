//! [`Model`] to ONNX file, at once and whole: a temporary file beside the output, then a rename.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use sha2::{Digest, Sha256};

use super::proto::{
    GraphProto, ModelProto, NodeProto, StringStringEntryProto, ValueInfoProto, tensor_proto::DataLocation,
};
use super::temporary::TemporaryFolder;
use super::unknown::carry_unknown_fields;
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
    /// In `MODEL.onnx.HASH.data` beside the model, each tensor aligned to 4096 bytes; small ones stay inline. The name
    /// follows from the content, so that a model and the one that replaces it never share a file.
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
/// Hexadecimal digits in the name of a data file.
const DIGITS: usize = 16;

/// Writes the model to `path`, replacing a file that is there; returns the bytes written, data file included.
///
/// # Errors
/// When the graph is not lowered or the files cannot be written; the previous file is then still whole.
pub fn write(model: &Model, path: &Path, storage: Storage) -> Result<u64, WriteError> {
    stage(model, path, storage)?.persist()
}

/// A model in a temporary folder, on its way to its place. It can be read there before anything is replaced.
pub struct Staged {
    folder: TemporaryFolder,
    target: PathBuf,
    /// Name of the data file, if there is one.
    data: Option<String>,
    size: u64,
}

/// Writes the model to a temporary folder beside `path`.
///
/// # Errors
/// When the graph is not lowered or the files cannot be written.
pub fn stage(model: &Model, path: &Path, storage: Storage) -> Result<Staged, WriteError> {
    let name = file_name(path)?;
    let mut proto = to_proto(model)?;
    let folder = temporary(path)?;
    let inline =
        storage == Storage::Inline || storage == Storage::Auto && proto.encoded_len() <= PROTOBUF_LIMIT;
    let data = if inline { None } else { Some(move_data_out(&mut proto, path, &folder)?) };
    let mut bytes = proto.encode_to_vec();
    drop(proto);
    if let Some(source) = &model.newer {
        bytes = carry_unknown_fields(source, &bytes);
    }
    if bytes.len() > PROTOBUF_LIMIT {
        return Err(WriteError::TooLarge { size: bytes.len() });
    }
    fill(&folder.join(name), &bytes, path)?;
    let size = bytes.len() as u64 + data.as_ref().map_or(0, |(_, size)| *size);
    Ok(Staged { folder, target: path.to_path_buf(), data: data.map(|(name, _)| name), size })
}

impl Staged {
    /// Where the model file lies for now, its data file beside it.
    pub fn path(&self) -> PathBuf {
        self.folder.join(self.target.file_name().unwrap_or_default())
    }

    /// Moves the files to their place; returns their size. The model file comes last, and only then does the data file of
    /// the model that it replaced go: whenever the process is killed, one of the two is whole.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn persist(self) -> Result<u64, WriteError> {
        if let Some(name) = &self.data {
            rename(&self.folder.join(name), &self.target.with_file_name(name))?;
        }
        rename(&self.path(), &self.target)?;
        remove_old_data(&self.target, self.data.as_deref());
        Ok(self.size)
    }
}

/// Finds out, before any work is spent, whether a file can be written at `path`.
///
/// # Errors
/// When no file can be made in its folder, or a folder is in its place.
pub fn check_writable(path: &Path) -> Result<(), WriteError> {
    file_name(path)?;
    temporary(path).map(drop)
}

/// Writes a file at once: it appears whole or not at all.
///
/// # Errors
/// When the operating system refuses.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let name = file_name(path)?;
    let folder = temporary(path)?;
    fill(&folder.join(name), bytes, path)?;
    rename(&folder.join(name), path)
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

/// Moves payloads into a data file in `folder`, for a model that is to be `path`; returns its name and its size.
fn move_data_out(
    proto: &mut ModelProto,
    path: &Path,
    folder: &TemporaryFolder,
) -> Result<(String, u64), WriteError> {
    let io = |source| WriteError::Io { path: path.to_path_buf(), source };
    let model_name = path.file_name().and_then(|name| name.to_str());
    let no_name = "its weights go to a file beside it that it names, so its own name must be UTF-8";
    let model_name = model_name.ok_or_else(|| io(std::io::Error::other(no_name)))?;
    let unnamed = folder.join("data");
    let mut file = BufWriter::new(File::create_new(&unnamed).map_err(io)?);
    let mut hash = Sha256::new();
    let mut offset = 0u64;
    let mut moved = Vec::new();
    for tensor in proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        let Some(raw) = tensor.raw_data.take_if(|raw| raw.len() >= EXTERNAL_FLOOR) else { continue };
        let padding = offset.next_multiple_of(ALIGNMENT) - offset;
        std::io::copy(&mut std::io::repeat(0).take(padding), &mut file).map_err(io)?;
        file.write_all(&raw).map_err(io)?;
        let start = offset + padding;
        offset = start + raw.len() as u64;
        hash.update(start.to_le_bytes());
        hash.update(&raw);
        moved.push((tensor, start, raw.len()));
    }
    let file = file.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{model_name}.{}.data", &digits[..DIGITS]);
    for (tensor, start, length) in moved {
        let entry = |key: &str, value: String| StringStringEntryProto {
            key: Some(key.to_string()),
            value: Some(value),
        };
        tensor.external_data = vec![
            entry("location", name.clone()),
            entry("offset", start.to_string()),
            entry("length", length.to_string()),
        ];
        tensor.data_location = Some(DataLocation::External as i32);
    }
    rename(&unnamed, &folder.join(&name))?;
    Ok((name, offset))
}

/// Removes the data files of models that `path` was before; `kept` is that of the model that it is now.
fn remove_old_data(path: &Path, kept: Option<&str>) {
    let (Some(name), Some(folder)) = (path.file_name().and_then(|name| name.to_str()), path.parent()) else {
        return;
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let is_data = |other: &str| {
        let digits = other.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".data")?;
        Some(digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
    };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let other = entry.file_name();
        if let Some(other) = other.to_str()
            && is_data(other) == Some(true)
            && Some(other) != kept
        {
            let _ = std::fs::remove_file(entry.path()); // the new model is in its place and whole without it
        }
    }
}

/// The name of the file that is to be `path`; refuses the places that no file can take.
fn file_name(path: &Path) -> Result<&std::ffi::OsStr, WriteError> {
    let name = path.file_name().filter(|_| !path.is_dir());
    let source = || std::io::ErrorKind::IsADirectory.into();
    name.ok_or_else(|| WriteError::Io { path: path.to_path_buf(), source: source() })
}

fn temporary(path: &Path) -> Result<TemporaryFolder, WriteError> {
    TemporaryFolder::beside(path).map_err(|source| WriteError::Io { path: path.to_path_buf(), source })
}

/// Makes the file `temporary`, on its way to `target`.
fn fill(temporary: &Path, bytes: &[u8], target: &Path) -> Result<(), WriteError> {
    let fill = || {
        let mut file = File::create_new(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    fill().map_err(|source| WriteError::Io { path: target.to_path_buf(), source })
}

fn rename(from: &Path, to: &Path) -> Result<(), WriteError> {
    std::fs::rename(from, to).map_err(|source| WriteError::Io { path: to.to_path_buf(), source })
}
