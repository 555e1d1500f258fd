//! The CUDA package: weights packed in the order in which Hopper's tensor cores take them, and a manifest. It holds data
//! only; the kernels belong to the launcher. `docs/package.md` is the specification.
//!
//! [`write()`] makes a package of a quantized graph, [`PackageWriter`] of matrices; [`Package`] reads one, and refuses it
//! when it is damaged or of another version; [`Package::pack`] makes one in memory.

mod bias;
mod contents;
mod emit;
mod fragment;
mod geometry;
mod manifest;
mod pack;
mod packed;
mod reader;
mod table;
mod unpack;
mod validate;
mod writer;

pub use contents::{LayerError, LayerParts};
pub use emit::{EmitError, stage, write};
pub use geometry::{BLOCK, Geometry, GeometryError, PANEL, RANK_MULTIPLE, TILE};
pub use manifest::{ALIGNMENT, Activation, Array, Codes, GroupScales, Layer, Manifest, VERSION};
pub use pack::PackError;
pub use packed::{PackedActivation, PackedLayer};
pub use reader::{OpenError, Package};
pub use table::Table;
pub use unpack::UnpackedLayer;
pub use validate::Damage;
pub use writer::{PackageWriter, StagedPackage, WriteError, check_writable};

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
