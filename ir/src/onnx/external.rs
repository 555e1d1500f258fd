//! External tensor data: files beside the model, mapped once each, never outside of the model's own folder. Where the model is a
//! symbolic link, as in the cache of the Hugging Face hub, the folder of the file that it leads to is its own too.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;

use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};
use super::read::ModelError;
use crate::tensor::{Tensor, is_external, is_opaque};

/// Why a tensor's external data cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages name the fields
pub enum ExternalError {
    /// The model is no file, so nothing lies beside it.
    #[error("its data is external, and the model is in memory; put the data in raw_data")]
    InMemory,
    /// No `location`, or an `offset` or `length` that is no number.
    #[error("its external data entry \"{key}\" is missing or malformed; export the model again")]
    Malformed { key: &'static str },
    /// Neither a payload nor the name of a file.
    #[error(
        "it has no payload and names no file with one; export the model again, a text by --emit ir, which leaves no constant out"
    )]
    Missing,
    /// The path leads out of the model's folder.
    #[error(
        "external data path {location:?} leaves the model's own folder, or is a link to a file out of it; move the file beside \
         the model"
    )]
    Outside { location: String },
    /// The file cannot be opened.
    #[error("external data file {path:?}: {source}; copy it beside the model")]
    Open { path: PathBuf, source: std::io::Error },
    /// Offset and length reach past the end.
    #[error(
        "external data file {path:?} has {size} bytes, the tensor lies at {offset}..+{length}; it is truncated"
    )]
    Range { path: PathBuf, size: u64, offset: u64, length: u64 },
    /// So many tensors lie on top of each other that the model would be far larger than its files.
    #[error(
        "{claimed} bytes of external data are claimed up to here, of files with {size}; the tensors overlap, export \
         the model again"
    )]
    Overlap { claimed: u64, size: u64 },
}

/// A byte of an external file may belong to this many tensors on average, as tied weights may lie in one place.
const SHARING: u64 = 16;

/// The external data files of one model.
pub(super) struct ExternalFiles<'a> {
    model: Option<&'a Path>,
    mapped: HashMap<PathBuf, Bytes>,
    loaded: u64,
    keeps_opaque: bool,
}

impl<'a> ExternalFiles<'a> {
    /// Files are looked for in the folder of the file `model`; without one there are none.
    pub(super) fn new(model: Option<&'a Path>) -> Self {
        Self { model, mapped: HashMap::new(), loaded: 0, keeps_opaque: false }
    }

    /// The same, that let opaque constants be as they are.
    pub(super) fn keeping_opaque(self) -> Self {
        Self { keeps_opaque: true, ..self }
    }

    /// Puts the payload of every external tensor in its place, shared with the mapped file; the bytes that this was.
    pub(super) fn inline(mut self, model: &mut ModelProto) -> Result<u64, ModelError> {
        model.graph.iter_mut().try_for_each(|graph| self.inline_graph(graph))?;
        for function in &mut model.functions {
            let label = format!("function \"{}\", attribute", function.name());
            self.inline_attributes(&mut function.attribute_proto, &label)?;
            self.inline_nodes(&mut function.node)?;
        }
        Ok(self.loaded)
    }

    fn inline_graph(&mut self, graph: &mut GraphProto) -> Result<(), ModelError> {
        let sparse = graph.sparse_initializer.iter_mut().flat_map(parts);
        let mut tensors = graph.initializer.iter_mut().chain(sparse);
        tensors.try_for_each(|tensor| self.inline_tensor(tensor, "initializer"))?;
        self.inline_nodes(&mut graph.node)
    }

    fn inline_nodes(&mut self, nodes: &mut [NodeProto]) -> Result<(), ModelError> {
        nodes.iter_mut().try_for_each(|node| {
            let label = format!("node {} \"{}\", attribute", node.op_type(), node.name());
            self.inline_attributes(&mut node.attribute, &label)
        })
    }

    fn inline_attributes(
        &mut self,
        attributes: &mut [AttributeProto],
        label: &str,
    ) -> Result<(), ModelError> {
        for attribute in attributes {
            let dense = attribute.t.iter_mut().chain(&mut attribute.tensors);
            let sparse = attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors);
            dense.chain(sparse.flat_map(parts)).try_for_each(|tensor| self.inline_tensor(tensor, label))?;
            let mut bodies = attribute.g.iter_mut().chain(&mut attribute.graphs);
            bodies.try_for_each(|body| self.inline_graph(body))?;
        }
        Ok(())
    }

    fn inline_tensor(&mut self, proto: &mut TensorProto, label: &str) -> Result<(), ModelError> {
        if !is_external(proto) || self.keeps_opaque && is_opaque(proto) {
            return Ok(());
        }
        let name = || format!("{label} \"{}\"", proto.name());
        let size = Tensor::from_proto(proto.clone()).byte_len();
        let size = size.map_err(|source| ModelError::Tensor { tensor: name(), source })?;
        let payload = self.load(proto, size);
        let payload = payload.map_err(|source| ModelError::External { tensor: name(), source })?;
        self.loaded += payload.len() as u64;
        let size = self.mapped.values().map(|file| file.len() as u64).sum();
        if self.loaded > SHARING * size {
            let source = ExternalError::Overlap { claimed: self.loaded, size };
            return Err(ModelError::External { tensor: name(), source });
        }
        proto.raw_data = Some(payload);
        proto.external_data.clear();
        proto.data_location = None;
        Ok(())
    }

    /// The payload of `tensor`, of `byte_len` bytes unless the file gives another length; 0 is none, as in ONNX Runtime.
    fn load(&mut self, tensor: &TensorProto, byte_len: usize) -> Result<Bytes, ExternalError> {
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value());
        let number = |key: &'static str| match entry(key) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| ExternalError::Malformed { key }),
        };
        if is_opaque(tensor) {
            return Err(ExternalError::Missing);
        }
        let location = entry("location").ok_or(ExternalError::Malformed { key: "location" })?;
        let length = number("length")?.filter(|&length| length > 0);
        let (offset, length) = (number("offset")?.unwrap_or(0), length.unwrap_or(byte_len as u64));
        let path = self.resolve(location)?;
        let file = match self.mapped.get(&path) {
            Some(file) => file,
            None => {
                let bytes =
                    map_file(&path).map_err(|source| ExternalError::Open { path: path.clone(), source })?;
                self.mapped.entry(path.clone()).or_insert(bytes)
            }
        };
        let size = file.len() as u64;
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(file.slice(offset as usize..end as usize)),
            _ => Err(ExternalError::Range { path, size, offset, length }),
        }
    }

    /// The path of a file beside the model, whose real place is in the folder of the model or in that of its real place.
    fn resolve(&self, location: &str) -> Result<PathBuf, ExternalError> {
        let model = self.model.ok_or(ExternalError::InMemory)?;
        let outside = || ExternalError::Outside { location: location.to_string() };
        let relative = Path::new(location);
        let plain = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !plain || location.is_empty() || location.contains('\0') {
            return Err(outside());
        }
        let canonical = |path: &Path| {
            path.canonicalize().map_err(|source| ExternalError::Open { path: path.to_path_buf(), source })
        };
        let path = folder(model).join(relative);
        let real = canonical(&path)?;
        let allowed =
            real.starts_with(canonical(folder(model))?) || real.starts_with(folder(&canonical(model)?));
        if allowed { Ok(path) } else { Err(outside()) }
    }
}

/// The folder that a file lies in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn parts(sparse: &mut SparseTensorProto) -> impl Iterator<Item = &mut TensorProto> {
    sparse.values.iter_mut().chain(&mut sparse.indices)
}

/// Maps a regular file; an empty file gives empty bytes. The file must not change as long as they live.
///
/// # Errors
/// When there is no such file, or it is a folder, a pipe or a device.
pub fn map_file(path: &Path) -> std::io::Result<Bytes> {
    // Asked before the file is opened: opening a pipe would wait for a writer.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    if metadata.len() == 0 {
        return Ok(Bytes::new());
    }
    let file = File::open(path)?;
    // SAFETY: the mapping is read-only and private to us. Another process that shortens the file while we run could
    // fault us; as every program that maps its inputs, we document that model files must not change under the run.
    let mapping = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(mapping))
}
