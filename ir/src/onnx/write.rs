//! [`Model`] to ONNX file, at once and whole: a temporary file beside the output, then a rename.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use prost::Message;

use super::data_file::{self, StagedData, old_data};
use super::place::Place;
use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use super::temporary::TemporaryFolder;
use super::unknown::carry_unknown_fields;
use crate::graph::{Cycle, Graph, NodeId, ValueId};
use crate::model::Model;
use crate::op::Op;
use crate::tensor::is_opaque;

/// Where the weights of a written model lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// In the model file as long as it stays below 2 GB, protobuf's limit; else as [`Storage::External`].
    #[default]
    Auto,
    /// In the model file.
    Inline,
    /// In `MODEL.onnx.data` beside the model, each tensor aligned to 4096 bytes; small ones stay inline. Where that file is of
    /// something else than the model that is replaced, the name is `MODEL.onnx.HASH.data`.
    External,
}

/// Why a model was not written; nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages name the fields
pub enum WriteError {
    /// The graph still has an operator that ONNX does not know.
    #[error("node {node} is not lowered to ONNX; run a lowering pass first")]
    NotLowered { node: String },
    /// The graph has a cycle.
    #[error(transparent)]
    Cycle(#[from] Cycle),
    /// A constant has no payload.
    #[error(
        "constant \"{tensor}\" is opaque: the text that the model comes from leaves its payload out; write the text with --emit ir"
    )]
    Opaque { tensor: String },
    /// Protobuf readers refuse files of 2 GB and more.
    #[error(
        "the model file would take {size} bytes, over protobuf's limit of 2 GB; store the weights externally"
    )]
    TooLarge { size: usize },
    /// The operating system refused.
    #[error("cannot write {path:?}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// A folder is in the place of the file.
    #[error("cannot write {path:?}: it is a directory; name a file")]
    Directory { path: PathBuf },
    /// A device, a FIFO or a socket is in the place of the file.
    #[error("cannot write {path:?}: it is {kind}, and only a regular file is replaced; name another file")]
    NotRegular { path: PathBuf, kind: &'static str },
}

/// The model that names its data file by its hash.
const BY_HASH: &str = "by-hash";

/// Protobuf implementations count message sizes in signed 32 bits.
const PROTOBUF_LIMIT: usize = i32::MAX as usize;

/// Writes the model to `path`, replacing a file that is there; returns the bytes written, data file included.
///
/// # Errors
/// When the graph is not lowered or the files cannot be written; what was there is then still whole.
pub fn write(model: &Model, path: &Path, storage: Storage) -> Result<u64, WriteError> {
    stage(model, path, storage)?.persist()
}

/// A model in a temporary folder, on its way to its place. It can be read there before anything is replaced.
pub struct Staged {
    folder: TemporaryFolder,
    place: Place,
    data: Option<StagedData>,
    size: u64,
}

/// Writes the model to a temporary folder beside `path`.
///
/// # Errors
/// When the graph is not lowered or the files cannot be written.
pub fn stage(model: &Model, path: &Path, storage: Storage) -> Result<Staged, WriteError> {
    let proto = to_proto(model)?;
    let inline =
        storage == Storage::Inline || storage == Storage::Auto && proto.encoded_len() <= PROTOBUF_LIMIT;
    stage_message(proto, path, inline, |proto| file_bytes(model, proto))
}

/// Writes `proto` as `encode` says to a temporary folder beside `path`, and large constants to a data file unless all are to be
/// `inline`.
pub(crate) fn stage_message(
    mut proto: ModelProto,
    path: &Path,
    inline: bool,
    encode: impl Fn(&ModelProto) -> Result<Vec<u8>, WriteError>,
) -> Result<Staged, WriteError> {
    let place = Place::of(path)?;
    let folder = temporary(&place, path)?;
    let data = if inline { None } else { Some(StagedData::write(&mut proto, place.path(), &folder)?) };
    let bytes = encode(&proto)?;
    fill(&folder.join(place.file_name()), &bytes, path)?;
    let mut size = bytes.len() as u64;
    if let Some(data) = &data {
        size += data.size;
        data.name_by_hash(&mut proto);
        fill(&folder.join(BY_HASH), &encode(&proto)?, path)?;
    }
    Ok(Staged { folder, place, data, size })
}

/// The content of a model file: the protobuf message of `model`, with what it was read with of a newer schema.
fn file_bytes(model: &Model, proto: &ModelProto) -> Result<Vec<u8>, WriteError> {
    let mut bytes = proto.encode_to_vec();
    if let Some(source) = &model.newer {
        bytes = carry_unknown_fields(source, &bytes);
    }
    if bytes.len() > PROTOBUF_LIMIT {
        return Err(WriteError::TooLarge { size: bytes.len() });
    }
    Ok(bytes)
}

impl Staged {
    /// Where the model file lies for now, its data file beside it.
    pub fn path(&self) -> PathBuf {
        self.folder.join(self.place.file_name())
    }

    /// Moves the files to their place, and removes the data files that the model read which is replaced; returns the size of
    /// the files. Whenever the process is killed, the old model or the new one is there and whole.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn persist(self) -> Result<u64, WriteError> {
        let old = old_data(self.place.path());
        let data = match &self.data {
            Some(data) => {
                Some(data.take(&self.folder, &self.place, &self.path(), &self.folder.join(BY_HASH))?)
            }
            None => {
                self.place.take(&self.path(), self.place.occupant().as_ref())?;
                None
            }
        };
        data_file::remove(old, data);
        Ok(self.size)
    }
}

/// Finds out, before any work is spent, whether a file can be written at `path`.
///
/// # Errors
/// When no file can be made in its folder, or something else than a regular file is in its place.
pub fn check_writable(path: &Path) -> Result<(), WriteError> {
    temporary(&Place::of(path)?, path).map(drop)
}

/// Writes a file at once: it appears whole or not at all.
///
/// # Errors
/// When the operating system refuses, or something else than a regular file is in its place.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let place = Place::of(path)?;
    let folder = temporary(&place, path)?;
    let temporary = folder.join(place.file_name());
    fill(&temporary, bytes, path)?;
    place.take(&temporary, place.occupant().as_ref())
}

/// The model as one protobuf message with every payload inline (shared with the model, not copied).
///
/// # Errors
/// When the graph is not lowered, or cyclic, or a constant is opaque.
pub fn to_proto(model: &Model) -> Result<ModelProto, WriteError> {
    let proto = graph_to_proto(&model.graph)?;
    if let Some(tensor) = opaque(&proto) {
        return Err(WriteError::Opaque { tensor: tensor.name().to_string() });
    }
    Ok(ModelProto { graph: Some(proto), ..model.header.clone() })
}

fn graph_to_proto(graph: &Graph) -> Result<GraphProto, WriteError> {
    Ok(GraphProto {
        node: graph.order()?.iter().map(|&id| node_to_proto(graph, id)).collect::<Result<_, _>>()?,
        initializer: graph
            .initializers()
            .map(|(id, tensor)| tensor.to_proto(&graph.value(id).name))
            .collect(),
        input: graph.inputs.iter().map(|&id| info(graph, id)).collect(),
        ..GraphProto::clone(&graph.rest)
    })
}

/// An opaque constant in the graph or a body in it, if there is one.
fn opaque(graph: &GraphProto) -> Option<&TensorProto> {
    let attributes = || graph.node.iter().flat_map(|node| &node.attribute);
    let literals = attributes().flat_map(|attribute| attribute.t.iter().chain(&attribute.tensors));
    let found = graph.initializer.iter().chain(literals).find(|tensor| is_opaque(tensor));
    found.or_else(|| graph.node.iter().flat_map(NodeProto::bodies).find_map(opaque))
}

/// The content of a model file with every payload inline.
///
/// # Errors
/// As [`to_proto`], and when the file would take more than protobuf's limit of 2 GB.
pub fn to_bytes(model: &Model) -> Result<Vec<u8>, WriteError> {
    file_bytes(model, &to_proto(model)?)
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
    let payload = |id: ValueId| graph.constant(id).or_else(|| graph.initializers.get(&id));
    constants.retain(|&id| payload(id).is_some() && !inputs.contains(&id));
    constants.sort();
    constants.dedup();
    let infos = |ids: &[ValueId]| ids.iter().map(|&id| info(graph, id)).collect::<Vec<_>>();
    let proto = GraphProto {
        name: Some(graph.name().to_string()),
        node: nodes.iter().map(|&id| node_to_proto(graph, id)).collect::<Result<_, _>>()?,
        initializer: constants
            .iter()
            .filter_map(|&id| Some(payload(id)?.to_proto(&graph.value(id).name)))
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
/// When it is not lowered, or what is in its regions is not.
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
    for (body, region) in proto.bodies_mut().zip(node.regions()) {
        *body = graph_to_proto(region)?;
    }
    if proto.name() != node.name {
        proto.name = Some(node.name.clone());
    }
    Ok(proto)
}

/// A folder beside a place, which the caller names `path`.
fn temporary(place: &Place, path: &Path) -> Result<TemporaryFolder, WriteError> {
    TemporaryFolder::beside(place.path())
        .map_err(|source| WriteError::Io { path: path.to_path_buf(), source })
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
