//! A layer in the order in which the kernels read it.

use crate::error::{PackError, ShapeError};
use crate::isa::Isa;
use crate::layer::{Extra, Layer, Layout, LowRank};
use crate::operands::{Output, Tokens};
use crate::pool::Pool;
use crate::reference;
use zqc_numerics::{FactorFormat, Format, Ladder};

/// A layer, packed.
pub struct PackedLinear {
    isa: Isa,
    shape: (usize, usize, usize, Layout, Format),
    codes: Vec<u8>,
    scales: Vec<f32>,
    shifts: Option<(Ladder, Vec<u8>)>,
    zero_points: Option<Vec<i8>>,
    low_rank: Option<(usize, FactorFormat, Vec<u8>, Vec<u8>, Vec<f32>)>,
    bias: Option<Vec<f32>>,
}

impl PackedLinear {
    /// Packs a layer for an instruction set.
    ///
    /// # Errors
    /// When the layer is not well-formed, see [`Layer::check`], or the instruction set is not available.
    pub fn pack(layer: &Layer<'_>, isa: Isa) -> Result<Self, PackError> {
        layer.check()?;
        isa.check()?;
        let low_rank = layer.low_rank.map(|branch| {
            (branch.rank, branch.format, branch.down.to_vec(), branch.up.to_vec(), branch.scales.to_vec())
        });
        Ok(Self {
            isa,
            shape: (layer.k, layer.n, layer.group_size, layer.layout, layer.format),
            codes: layer.codes.to_vec(),
            scales: layer.scales.to_vec(),
            shifts: match layer.extra {
                Extra::Shifts(ladder, shifts) => Some((ladder, shifts.to_vec())),
                _ => None,
            },
            zero_points: match layer.extra {
                Extra::ZeroPoints(zero_points) => Some(zero_points.to_vec()),
                _ => None,
            },
            low_rank,
            bias: layer.bias.map(<[f32]>::to_vec),
        })
    }

    /// Computes `output` `[M, N]` of `tokens` `[M, K]`.
    ///
    /// # Errors
    /// When the slices do not fit.
    pub fn forward(&self, tokens: Tokens<'_>, output: Output<'_>, pool: &dyn Pool) -> Result<(), ShapeError> {
        let _ = (self.isa, pool);
        let (k, n, group_size, layout, format) = self.shape;
        let low_rank = self.low_rank.as_ref().map(|(rank, format, down, up, scales)| LowRank {
            rank: *rank,
            format: *format,
            down,
            up,
            scales,
        });
        let extra = match (&self.shifts, &self.zero_points) {
            (Some((ladder, shifts)), _) => Extra::Shifts(*ladder, shifts),
            (_, Some(zero_points)) => Extra::ZeroPoints(zero_points),
            _ => Extra::None,
        };
        let bias = self.bias.as_deref();
        let (codes, scales) = (&self.codes[..], &self.scales[..]);
        let layer = Layer { k, n, group_size, layout, format, codes, scales, extra, low_rank, bias };
        reference::forward(&layer, tokens, output)
    }

    /// Bytes of memory that the packed layer takes.
    pub fn bytes(&self) -> usize {
        self.codes.len()
    }
}
