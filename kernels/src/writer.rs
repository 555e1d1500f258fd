//! Matrices to a package.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use zqc_ir::onnx::{FolderError, StagedFolder, map_file};
use zqc_numerics::{LowRank, QuantizedMatrix};

use crate::manifest::{Activation, Array, FORMAT, Layer, Manifest};
use crate::pack::{self, PackError, PackedArrays};
use crate::reader::{MANIFEST, WEIGHTS};
use crate::{ALIGNMENT, VERSION};

/// Why a package was not written; what was in its place is as it was.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It cannot be written there.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A layer cannot be packed.
    #[error("layer {layer}: {source}")]
    Layer {
        /// The layer.
        layer: String,
        /// Why.
        source: PackError,
    },
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

/// A layer to be packed.
#[derive(Clone, Debug)]
pub struct LayerParts {
    /// Its path in the source model. Where another layer has it, a number is added.
    pub name: String,
    /// The weight.
    pub matrix: QuantizedMatrix,
    /// The low-rank branch.
    pub low_rank: Option<LowRank>,
    /// The bias, `[n]`.
    pub bias: Option<Vec<f32>>,
}

/// A package under way, in a temporary folder.
pub struct PackageWriter {
    staging: StagedFolder,
    weights: ArrayFile,
    names: HashSet<String>,
    activations: Vec<Activation>,
    layers: Vec<Layer>,
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
        let (activations, layers) = (Vec::new(), Vec::new());
        Ok(Self { staging, weights, names: HashSet::new(), activations, layers })
    }

    /// Adds layers that read one activation. Their weights have as many columns.
    ///
    /// # Errors
    /// When a layer cannot be packed, or the disk is full.
    pub fn add(&mut self, layers: &[LayerParts]) -> Result<(), WriteError> {
        let Some(first) = layers.first() else { return Ok(()) };
        let k = first.matrix.cols;
        let of = |layer: &LayerParts, source| WriteError::Layer { layer: layer.name.clone(), source };
        if let Some(other) = layers.iter().find(|layer| layer.matrix.cols != k) {
            let [expected, actual] = [first, other].map(|layer| layer.matrix.cols);
            return Err(of(other, PackError::Activation { expected, actual }));
        }
        let index = self.activations.len();
        let mut rank = 0;
        for parts in layers {
            let packed = pack::layer(&parts.matrix, parts.low_rank.as_ref(), parts.bias.as_deref());
            let packed = packed.map_err(|source| of(parts, source))?;
            let rank_offset = if packed.geometry.rank() > 0 { rank } else { 0 };
            rank += packed.geometry.rank16();
            let layer = self.layer(&parts.name, index, rank_offset, &packed)?;
            self.layers.push(layer);
        }
        let branches: Vec<&LowRank> = layers.iter().filter_map(|layer| layer.low_rank.as_ref()).collect();
        let (down, rank) = pack::down(k, &branches).map_err(|source| of(first, source))?;
        let down = if rank > 0 { Some(self.weights.push(&down)?) } else { None };
        self.activations.push(Activation { k, rank, down });
        Ok(())
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
        let Self { staging, weights, activations, layers, .. } = self;
        let weights_bytes = weights.finish()?;
        let mut manifest = Manifest {
            format: FORMAT.to_string(),
            version: VERSION,
            zqc_version: env!("CARGO_PKG_VERSION").to_string(),
            checksum: 0,
            weights_bytes,
            activations,
            layers,
        };
        let path = staging.path().join(MANIFEST);
        let json = |error: serde_json::Error| io_error(&path, error.into());
        manifest.checksum = manifest.compute_checksum().map_err(json)?;
        let text = serde_json::to_vec_pretty(&manifest).map_err(json)?;
        write_file(&path, &text)?;
        Ok(StagedPackage { staging, bytes: (weights_bytes + text.len()) as u64 })
    }

    fn layer(
        &mut self,
        name: &str,
        activation: usize,
        rank_offset: usize,
        packed: &PackedArrays,
    ) -> Result<Layer, FolderError> {
        let geometry = packed.geometry;
        Ok(Layer {
            name: self.unique(name),
            n: geometry.n(),
            k: geometry.k(),
            codes: packed.codes,
            scales: packed.scales,
            group_size: geometry.group_size(),
            steps_per_block: geometry.steps_per_block(),
            rank: geometry.rank(),
            activation,
            rank_offset,
            table: packed.table,
            weights: self.weights.push(&packed.weights)?,
            row_scales: self.weights.push(&packed.row_scales)?,
            bias: packed.bias.as_ref().map(|bias| self.weights.push(bias)).transpose()?,
        })
    }

    /// The name, or `name#2` where it is taken, as the names of layers are numbered elsewhere.
    fn unique(&mut self, name: &str) -> String {
        let mut unique = name.to_string();
        let mut count = 1;
        while !self.names.insert(unique.clone()) {
            count += 1;
            unique = format!("{name}#{count}");
        }
        unique
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
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
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
