//! External tensor data: files beside the model, mapped once each, never outside of the model's own folder.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;

use super::proto::TensorProto;

/// Why a tensor's external data cannot be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum ExternalError {
    /// No `location`, or an `offset` or `length` that is no number.
    #[error("its external data entry \"{key}\" is missing or malformed; export the model again")]
    Malformed { key: &'static str },
    /// The path leads out of the model's folder.
    #[error("external data path {location:?} leaves the model's own folder; move the file beside the model")]
    Outside { location: String },
    /// The file cannot be opened.
    #[error("external data file {path:?}: {source}; copy it beside the model")]
    Open { path: PathBuf, source: std::io::Error },
    /// Offset and length reach past the end.
    #[error(
        "external data file {path:?} has {size} bytes, the tensor lies at {offset}..+{length}; it is truncated"
    )]
    Range { path: PathBuf, size: u64, offset: u64, length: u64 },
}

/// The external data files of one model.
pub(super) struct ExternalFiles<'a> {
    folder: &'a Path,
    mapped: HashMap<PathBuf, Bytes>,
}

impl<'a> ExternalFiles<'a> {
    /// Files are looked for in `folder` only.
    pub(super) fn new(folder: &'a Path) -> Self {
        Self { folder, mapped: HashMap::new() }
    }

    /// The payload of `tensor`, of `byte_len` bytes unless the file says otherwise.
    pub(super) fn load(&mut self, tensor: &TensorProto, byte_len: usize) -> Result<Bytes, ExternalError> {
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value());
        let number = |key: &'static str| match entry(key) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| ExternalError::Malformed { key }),
        };
        let location = entry("location").ok_or(ExternalError::Malformed { key: "location" })?;
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(byte_len as u64));
        let path = self.resolve(location)?;
        let file = match self.mapped.get(&path) {
            Some(file) => file,
            None => {
                let bytes =
                    map(&path).map_err(|source| ExternalError::Open { path: path.clone(), source })?;
                self.mapped.entry(path.clone()).or_insert(bytes)
            }
        };
        let size = file.len() as u64;
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(file.slice(offset as usize..end as usize)),
            _ => Err(ExternalError::Range { path, size, offset, length }),
        }
    }

    fn resolve(&self, location: &str) -> Result<PathBuf, ExternalError> {
        let outside = || ExternalError::Outside { location: location.to_string() };
        let relative = Path::new(location);
        let plain = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !plain || location.is_empty() || location.contains('\0') {
            return Err(outside());
        }
        let path = self.folder.join(relative);
        let canonical = |path: &Path| {
            path.canonicalize().map_err(|source| ExternalError::Open { path: path.to_path_buf(), source })
        };
        let real = canonical(&path)?;
        if real.starts_with(canonical(self.folder)?) { Ok(path) } else { Err(outside()) }
    }
}

/// Maps a regular file; an empty file gives empty bytes.
pub(super) fn map(path: &Path) -> std::io::Result<Bytes> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    if metadata.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is read-only and private to us. Another process that shortens the file while we run could
    // fault us; as every program that maps its inputs, we document that model files must not change under the run.
    let mapping = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(mapping))
}
