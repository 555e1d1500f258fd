//! The arrays of a package back to matrices: what a kernel computes with, element by element.

use half::bf16;
use zqc_formats::Format;

use crate::fragment::{
    half, magnitude_bit, rank_offset, sign_bit, step_place, swizzled, thread, word_offset,
};
use crate::geometry::{BLOCK, Geometry, TILE};
use crate::packed::{PackedActivation, PackedLayer};
use crate::table::Table;

/// A layer as plain matrices, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct UnpackedLayer {
    /// The 4-bit codes of the weight, one a byte, `[n][k]`.
    pub codes: Vec<u8>,
    /// The step of every group, `[n][groups]`.
    pub steps: Vec<u8>,
    /// The scale of every row, as packed, `[n]`.
    pub row_scales: Vec<f32>,
    /// The bias, `[n]`.
    pub bias: Option<Vec<f32>>,
    /// The outer low-rank factor, `[n][rank16]`.
    pub up: Vec<bf16>,
    /// The E4M3 codes of the inner low-rank factor, `[rank16][k]`.
    pub down: Vec<u8>,
    geometry: Geometry,
    table: Table,
}

impl UnpackedLayer {
    /// The layer in these arrays of these sizes.
    pub(crate) fn new(layer: &PackedLayer<'_>, activation: &PackedActivation<'_>) -> Self {
        let (geometry, weights) = (layer.geometry, layer.weights);
        let (n, k, group_size) = (geometry.n(), geometry.k(), geometry.group_size());
        let each = |rows, columns, element: &dyn Fn(usize, usize) -> u8| -> Vec<u8> {
            (0..rows * columns).map(|at| element(at / columns, at % columns)).collect()
        };
        let values = |bytes: &[u8]| -> Vec<f32> {
            bytes.as_chunks().0.iter().take(n).map(|&value| f32::from_le_bytes(value)).collect()
        };
        let (rank, first) = (geometry.rank16(), layer.manifest.rank_offset);
        let down = activation.down.unwrap_or_default();
        let down = each(rank, k, &|row, column| {
            let block = column / BLOCK * activation.manifest.rank * BLOCK;
            down[block + swizzled(first + row, column % BLOCK)]
        });
        let up = (0..n * rank).map(|at| {
            let (row, rank) = (at / rank, at % rank);
            let block = block(geometry, weights, row, geometry.blocks() + rank / 32);
            let offset = rank_offset(row % TILE, rank % 32);
            bf16::from_le_bytes([block[offset], block[offset + 1]])
        });
        Self {
            codes: each(n, k, &|row, column| {
                code(block(geometry, weights, row, column / BLOCK), row, column)
            }),
            steps: each(n, geometry.groups(), &|row, group| {
                let column = group * group_size;
                let slot = column % BLOCK / (BLOCK / geometry.steps_per_block());
                let (offset, bit) = step_place(row % TILE, geometry.steps_per_block());
                block(geometry, weights, row, column / BLOCK)[offset + slot] >> bit & 0xf
            }),
            row_scales: values(layer.row_scales),
            bias: layer.bias.map(values),
            up: up.collect(),
            down,
            geometry,
            table: layer.manifest.table,
        }
    }

    /// The weight that a kernel multiplies by, without the low-rank branch: `[n][k]`.
    pub fn weight(&self) -> Vec<f32> {
        let (k, groups) = (self.geometry.k(), self.geometry.groups());
        let value = |(at, &code): (usize, &u8)| {
            let (row, column) = (at / k, at % k);
            let step = self.steps[row * groups + column / self.geometry.group_size()];
            self.table.value(step, code) * self.row_scales[row]
        };
        self.codes.iter().enumerate().map(value).collect()
    }

    /// The values of the inner low-rank factor, `[rank16][k]`.
    pub fn down_values(&self) -> Vec<f32> {
        self.down.iter().map(|&code| Format::E4M3.decode(code)).collect()
    }
}

/// The block in which a row of the layer has its part of a block of columns or ranks.
fn block(geometry: Geometry, weights: &[u8], row: usize, block: usize) -> &[u8] {
    let tile = row / TILE;
    &weights[geometry.block_offset(tile / 2, block, tile % 2)..][..geometry.block_bytes()]
}

/// The code of an element, by its row and column in the layer, in its block.
fn code(block: &[u8], row: usize, column: usize) -> u8 {
    let (row, column) = (row % TILE, column % BLOCK);
    let within = column % 32;
    let (quarter, i) = (within % 16 / 4, within / 16 * 4 + within % 4);
    let offset = word_offset(thread(row, quarter), column / 32, half(row));
    let bit = |bit: usize| block[offset + bit / 8] >> (bit % 8);
    bit(magnitude_bit(i)) & 7 | (bit(sign_bit(i)) & 1) << 3
}
