//! A package, opened and checked.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Deserialize;
use zqc_ir::onnx::map_file;

use crate::contents::{Contents, LayerError, LayerParts};
use crate::geometry::Geometry;
use crate::manifest::{Array, FORMAT, Layer, Manifest, VERSION};
use crate::packed::{PackedActivation, PackedLayer};
use crate::unpack::UnpackedLayer;
use crate::validate::{Damage, NamedArray, validate};

/// The names of the parts of a package.
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const WEIGHTS: &str = "weights.bin";

/// Why a package cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A file cannot be read.
    #[error("cannot read {path:?}: {source}; a package holds manifest.json and weights.bin")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is not a manifest.
    #[error("{path:?} is no manifest of a CUDA package: {reason}; compile the model again")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The package has another version.
    #[error(
        "{path:?} has version {found} of the package format, and this program reads version {VERSION}; compile the model \
         again, or use the version of zqc that wrote it"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version that it has.
        found: u64,
    },
    /// The package was damaged.
    #[error("{path:?} is damaged: {source}; copy it again, or compile the model again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Damage,
    },
}

/// A package whose parts have the sizes and the checksums that the manifest says. Its weights are mapped, so `weights.bin` must
/// not change as long as it lives.
#[derive(Debug)]
pub struct Package {
    manifest: Manifest,
    geometries: Vec<Geometry>,
    by_name: HashMap<String, usize>,
    weights: Bytes,
}

impl Package {
    /// Whether a folder holds a package, or what is left of one.
    pub fn is_at(folder: &Path) -> bool {
        [MANIFEST, WEIGHTS].iter().any(|file| folder.join(file).is_file())
    }

    /// Opens the package in a folder. Reads all of it once, to check the checksums.
    ///
    /// # Errors
    /// When a file is missing, damaged, or of another version.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let path = folder.join(MANIFEST);
        let manifest = read_manifest(&path)?;
        let damaged = |source| OpenError::Damaged { path: path.clone(), source };
        let (arrays, geometries) = validate(&manifest).map_err(damaged)?;
        let weights = read_weights(&folder.join(WEIGHTS), &manifest, &arrays)?;
        Ok(Self::new(manifest, geometries, weights))
    }

    /// Packs layers that read one activation, in memory.
    ///
    /// # Errors
    /// When a layer cannot be packed.
    pub fn pack(layers: &[LayerParts]) -> Result<Self, LayerError> {
        let (mut contents, mut weights) = (Contents::default(), Vec::new());
        contents.add(layers, |bytes| {
            let array = Array::new(weights.len(), bytes);
            weights.extend_from_slice(bytes);
            weights.resize(weights.len() + array.padding(), 0);
            Ok::<_, LayerError>(array)
        })?;
        let geometries = std::mem::take(&mut contents.geometries);
        let manifest = contents.manifest(weights.len());
        Ok(Self::new(manifest, geometries, weights.into()))
    }

    fn new(manifest: Manifest, geometries: Vec<Geometry>, weights: Bytes) -> Self {
        let by_name =
            manifest.layers.iter().enumerate().map(|(at, layer)| (layer.name.clone(), at)).collect();
        Self { manifest, geometries, by_name, weights }
    }

    /// What is in the package.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// All of `weights.bin`, which the offsets of [`Array`] count in.
    pub fn weights(&self) -> &[u8] {
        &self.weights
    }

    /// The layers, in the order of the model.
    pub fn layers(&self) -> impl Iterator<Item = PackedLayer<'_>> {
        let layers = self.manifest.layers.iter().zip(&self.geometries);
        layers.map(|(layer, &geometry)| self.packed(layer, geometry))
    }

    /// The layer of this name.
    pub fn layer(&self, name: &str) -> Option<PackedLayer<'_>> {
        let &at = self.by_name.get(name)?;
        Some(self.packed(&self.manifest.layers[at], self.geometries[at]))
    }

    /// The activation of this index, see [`Layer::activation`].
    pub fn activation(&self, index: usize) -> Option<PackedActivation<'_>> {
        let manifest = self.manifest.activations.get(index)?;
        Some(PackedActivation { manifest, down: manifest.down.map(|array| self.bytes(array)) })
    }

    /// The layer of this name as plain matrices, for comparison with what a kernel computes.
    pub fn unpack(&self, name: &str) -> Option<UnpackedLayer> {
        let layer = self.layer(name)?;
        Some(UnpackedLayer::new(&layer, &self.activation(layer.manifest.activation)?))
    }

    fn packed<'p>(&'p self, layer: &'p Layer, geometry: Geometry) -> PackedLayer<'p> {
        PackedLayer {
            manifest: layer,
            geometry,
            weights: self.bytes(layer.weights),
            row_scales: self.bytes(layer.row_scales),
            bias: layer.bias.map(|array| self.bytes(array)),
        }
    }

    fn bytes(&self, array: Array) -> &[u8] {
        &self.weights[array.offset..][..array.bytes]
    }
}

/// The manifest of a version that this program reads, unchanged since it was written.
fn read_manifest(path: &Path) -> Result<Manifest, OpenError> {
    /// What every version of the format has.
    #[derive(Deserialize)]
    struct Header {
        format: String,
        version: u64,
    }
    let text = map_file(path).map_err(|source| OpenError::Read { path: path.to_path_buf(), source })?;
    let malformed = |reason: String| OpenError::Manifest { path: path.to_path_buf(), reason };
    let header: Header = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
    if header.format != FORMAT {
        return Err(malformed(format!("its format is {:?}, not {FORMAT:?}", header.format)));
    }
    if header.version != u64::from(VERSION) {
        return Err(OpenError::Version { path: path.to_path_buf(), found: header.version });
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
    match manifest.compute_checksum() {
        Ok(checksum) if checksum == manifest.checksum => Ok(manifest),
        _ => Err(OpenError::Damaged { path: path.to_path_buf(), source: Damage::Manifest }),
    }
}

fn read_weights(path: &Path, manifest: &Manifest, arrays: &[NamedArray]) -> Result<Bytes, OpenError> {
    let weights = map_file(path).map_err(|source| OpenError::Read { path: path.to_path_buf(), source })?;
    let damaged = |source| OpenError::Damaged { path: path.to_path_buf(), source };
    let (expected, actual) = (manifest.weights_bytes, weights.len());
    if expected != actual {
        return Err(damaged(Damage::FileSize { expected, actual }));
    }
    let ends = arrays.iter().skip(1).map(|next| next.array.offset).chain([weights.len()]);
    for (NamedArray { what, array }, end) in arrays.iter().zip(ends) {
        let (bytes, padding) = weights[array.offset..end].split_at(array.bytes);
        if crc32fast::hash(bytes) != array.crc32 {
            return Err(damaged(Damage::Checksum { what: what.clone() }));
        }
        if padding.iter().any(|&byte| byte != 0) {
            return Err(damaged(Damage::Padding { what: what.clone() }));
        }
    }
    Ok(weights)
}
