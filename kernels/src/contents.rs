//! Layers to what a manifest lists, wherever their arrays go.

use std::collections::HashSet;

use zqc_formats::{LowRank, QuantizedMatrix};

use crate::geometry::Geometry;
use crate::manifest::{Activation, Array, FORMAT, Layer, Manifest, VERSION};
use crate::pack::{self, PackError, PackedArrays};

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

/// Why a layer cannot be packed.
#[derive(Debug, thiserror::Error)]
#[error("layer {layer}: {source}")]
pub struct LayerError {
    /// The layer.
    pub layer: String,
    /// Why.
    pub source: PackError,
}

/// What is in a package under way.
#[derive(Default)]
pub(crate) struct Contents {
    names: HashSet<String>,
    activations: Vec<Activation>,
    layers: Vec<Layer>,
    /// By layer.
    pub geometries: Vec<Geometry>,
}

impl Contents {
    /// Adds layers that read one activation; `push` appends an array.
    ///
    /// # Errors
    /// When a layer cannot be packed, and those of `push`.
    pub fn add<E: From<LayerError>>(
        &mut self,
        layers: &[LayerParts],
        mut push: impl FnMut(&[u8]) -> Result<Array, E>,
    ) -> Result<(), E> {
        let Some(first) = layers.first() else { return Ok(()) };
        let k = first.matrix.cols;
        let of = |layer: &LayerParts, source| LayerError { layer: layer.name.clone(), source };
        if let Some(other) = layers.iter().find(|layer| layer.matrix.cols != k) {
            let [expected, actual] = [first, other].map(|layer| layer.matrix.cols);
            return Err(of(other, PackError::Activation { expected, actual }).into());
        }
        let index = self.activations.len();
        let mut rank = 0;
        for parts in layers {
            let packed = pack::layer(&parts.matrix, parts.low_rank.as_ref(), parts.bias.as_deref());
            let packed = packed.map_err(|source| of(parts, source))?;
            let rank_offset = if packed.geometry.rank() > 0 { rank } else { 0 };
            rank += packed.geometry.rank16();
            let layer = self.layer(&parts.name, index, rank_offset, &packed, &mut push)?;
            self.layers.push(layer);
            self.geometries.push(packed.geometry);
        }
        let branches: Vec<&LowRank> = layers.iter().filter_map(|layer| layer.low_rank.as_ref()).collect();
        let (down, rank) = pack::down(k, &branches).map_err(|source| of(first, source))?;
        let down = if rank > 0 { Some(push(&down)?) } else { None };
        self.activations.push(Activation { k, rank, down });
        Ok(())
    }

    /// The manifest, without its checksum.
    pub fn manifest(self, weights_bytes: usize) -> Manifest {
        Manifest {
            format: FORMAT.to_string(),
            version: VERSION,
            zqc_version: env!("CARGO_PKG_VERSION").to_string(),
            checksum: 0,
            weights_bytes,
            activations: self.activations,
            layers: self.layers,
        }
    }

    fn layer<E>(
        &mut self,
        name: &str,
        activation: usize,
        rank_offset: usize,
        packed: &PackedArrays,
        push: &mut impl FnMut(&[u8]) -> Result<Array, E>,
    ) -> Result<Layer, E> {
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
            weights: push(&packed.weights)?,
            row_scales: push(&packed.row_scales)?,
            bias: packed.bias.as_ref().map(|bias| push(bias)).transpose()?,
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
