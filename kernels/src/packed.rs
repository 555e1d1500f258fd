//! The layers and activations of a package, as they are packed.

use crate::geometry::Geometry;
use crate::manifest::{Activation, Layer};

/// A layer of a package.
#[derive(Clone, Copy, Debug)]
pub struct PackedLayer<'p> {
    /// Its entry in the manifest.
    pub manifest: &'p Layer,
    /// The sizes of its arrays.
    pub geometry: Geometry,
    /// Codes, steps and outer low-rank factor, `[panels][blocks + lorc_blocks][2][block_bytes]`.
    pub weights: &'p [u8],
    /// The scales of the rows, little-endian f32, `[padded_rows]`.
    pub row_scales: &'p [u8],
    /// The bias, little-endian f32, `[padded_rows]`.
    pub bias: Option<&'p [u8]>,
}

/// A quantized activation of a package.
#[derive(Clone, Copy, Debug)]
pub struct PackedActivation<'p> {
    /// Its entry in the manifest.
    pub manifest: &'p Activation,
    /// The inner low-rank factors of the layers that read it: E4M3 `[blocks][rank][128]`, swizzled.
    pub down: Option<&'p [u8]>,
}
