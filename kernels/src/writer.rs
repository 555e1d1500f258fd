//! Matrices to a package.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use zqc_ir::onnx::{FolderError, StagedFolder, map_file};

use crate::contents::{Contents, LayerError, LayerParts};
use crate::manifest::{ALIGNMENT, Array, FORMAT};
use crate::reader::{MANIFEST, WEIGHTS};

/// Why a package was not written; what was in its place is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// It cannot be written there.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A layer cannot be packed.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

/// A folder that packages of version 1 had.
const KERNELS_OF_VERSION_1: &str = "kernels";

/// Finds out, before any work is spent, whether a package can be written at `folder`.
///
/// # Errors
/// When no folder can be made beside it, or something that is no package is in its place.
pub fn check_writable(folder: &Path) -> Result<(), FolderError> {
    StagedFolder::new(folder, reason_to_keep).map(drop)
}

/// Why no package may replace the folder with these names in it; `None` where it is one.
fn reason_to_keep(folder: &Path, names: &[OsString]) -> Option<String> {
    let manifest = map_file(&folder.join(MANIFEST)).unwrap_or_default();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap_or_default();
    let ours = |name: &OsString| {
        name == MANIFEST || name == WEIGHTS || name == KERNELS_OF_VERSION_1 && manifest["version"] == 1
    };
    let package = names.iter().all(ours) && manifest["format"] == FORMAT;
    let reason =
        "a folder is there that is no package; name one that does not exist yet, is empty, or is a package";
    (!package).then(|| reason.to_string())
}

/// A package under way, in a temporary folder.
pub struct PackageWriter {
    staging: StagedFolder,
    weights: ArrayFile,
    contents: Contents,
}

/// A finished package beside its place, which goes when it is dropped.
pub struct StagedPackage {
    staging: StagedFolder,
    bytes: u64,
}

impl StagedPackage {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.staging.path()
    }

    /// Puts it in its place; returns its size in bytes.
    ///
    /// # Errors
    /// When the operating system refuses; what was there is then as it was.
    pub fn commit(self) -> Result<u64, WriteError> {
        self.staging.commit()?;
        Ok(self.bytes)
    }
}

impl PackageWriter {
    /// Begins a package that is to be at `folder`.
    ///
    /// # Errors
    /// When it cannot be written there.
    pub fn new(folder: &Path) -> Result<Self, FolderError> {
        let staging = StagedFolder::new(folder, reason_to_keep)?;
        let path = staging.path().join(WEIGHTS);
        let weights = ArrayFile::create(path)?;
        Ok(Self { staging, weights, contents: Contents::default() })
    }

    /// Adds layers that read one activation. Their weights have as many columns.
    ///
    /// # Errors
    /// When a layer cannot be packed, or the disk is full.
    pub fn add(&mut self, layers: &[LayerParts]) -> Result<(), WriteError> {
        self.contents.add(layers, |bytes| Ok(self.weights.push(bytes)?))
    }

    /// Finishes the package and puts it in its place; returns its size in bytes.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn finish(self) -> Result<u64, WriteError> {
        self.stage()?.commit()
    }

    /// Finishes the package beside its place.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn stage(self) -> Result<StagedPackage, WriteError> {
        let Self { staging, weights, contents } = self;
        let weights_bytes = weights.finish()?;
        let mut manifest = contents.manifest(weights_bytes);
        let path = staging.path().join(MANIFEST);
        let json = |error: serde_json::Error| io_error(&path, error.into());
        manifest.checksum = manifest.compute_checksum().map_err(json)?;
        let text = serde_json::to_vec_pretty(&manifest).map_err(json)?;
        write_file(&path, &text)?;
        Ok(StagedPackage { staging, bytes: (weights_bytes + text.len()) as u64 })
    }
}

/// `weights.bin` under way.
struct ArrayFile {
    path: PathBuf,
    file: BufWriter<File>,
    size: usize,
}

impl ArrayFile {
    fn create(path: PathBuf) -> Result<Self, FolderError> {
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file: BufWriter::new(file), size: 0 }),
            Err(source) => Err(io_error(&path, source)),
        }
    }

    /// Appends an array, and what brings the next one to its alignment.
    fn push(&mut self, bytes: &[u8]) -> Result<Array, FolderError> {
        let array = Array::new(self.size, bytes);
        let padding = array.padding();
        let written =
            self.file.write_all(bytes).and_then(|()| self.file.write_all(&[0; ALIGNMENT][..padding]));
        written.map_err(|source| io_error(&self.path, source))?;
        self.size += bytes.len() + padding;
        Ok(array)
    }

    /// The size of the file, which is on the disk then.
    fn finish(self) -> Result<usize, FolderError> {
        let Self { path, file, size } = self;
        let file = file.into_inner().map_err(|error| io_error(&path, error.into_error()))?;
        file.sync_all().map_err(|source| io_error(&path, source))?;
        Ok(size)
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|source| io_error(path, source))
}

fn io_error(path: &Path, source: io::Error) -> FolderError {
    FolderError::Io { path: path.to_path_buf(), source }
}
