//! A layer in the order in which the kernels read it.

use crate::error::PackError;
use crate::isa::Isa;
use crate::layer::{Extra, Layer};
use crate::matrix::Matrix;
use crate::tiling::PANEL;

/// A layer, packed.
pub struct PackedLinear {
    pub(crate) isa: Isa,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) weight: Matrix,
    /// Scales of output features, `[panel][16]`, or none.
    pub(crate) row_scales: Vec<[f32; PANEL]>,
    pub(crate) low_rank: Option<PackedLowRank>,
    /// Biases of output features, `[panel][16]`, or none.
    pub(crate) bias: Vec<[f32; PANEL]>,
}

/// A low-rank branch, packed.
pub(crate) struct PackedLowRank {
    /// `V`, `[K, R]`.
    pub down: Matrix,
    /// `U`, `[R, N]`.
    pub up: Matrix,
    /// Scales of the components.
    pub scales: Vec<f32>,
}

impl PackedLinear {
    /// Packs a layer for an instruction set. The result needs none of the layer's operands.
    ///
    /// # Errors
    /// When the layer is not well-formed, see [`Layer::check`], or the instruction set is not available.
    pub fn pack(layer: &Layer<'_>, isa: Isa) -> Result<Self, PackError> {
        let isa = isa.check()?;
        layer.check()?;
        let low_rank = layer.low_rank.filter(|branch| branch.rank > 0).map(|branch| PackedLowRank {
            down: Matrix::down(&branch, layer.k),
            up: Matrix::up(&branch, layer.n),
            scales: branch.scales.to_vec(),
        });
        let row_scales = match layer.extra {
            Extra::Shifts(..) => by_panels(layer.scales),
            Extra::None | Extra::ZeroPoints(_) => Vec::new(),
        };
        let bias = layer.bias.map(by_panels).unwrap_or_default();
        let weight = Matrix::weight(layer);
        Ok(Self { isa, k: layer.k, n: layer.n, weight, row_scales, low_rank, bias })
    }

    /// Input features, `K`.
    pub fn input_features(&self) -> usize {
        self.k
    }

    /// Output features, `N`.
    pub fn output_features(&self) -> usize {
        self.n
    }

    /// Bytes of memory that the packed layer takes.
    pub fn bytes(&self) -> usize {
        let low_rank = self.low_rank.as_ref().map_or(0, |branch| {
            branch.down.bytes() + branch.up.bytes() + size_of_val(branch.scales.as_slice())
        });
        let rows = size_of_val(self.row_scales.as_slice()) + size_of_val(self.bias.as_slice());
        self.weight.bytes() + low_rank + rows
    }
}

/// One value for each output feature, filled up with 0 to whole panels.
fn by_panels(values: &[f32]) -> Vec<[f32; PANEL]> {
    let panel = |values: &[f32]| std::array::from_fn(|lane| values.get(lane).copied().unwrap_or(0.0));
    values.chunks(PANEL).map(panel).collect()
}
