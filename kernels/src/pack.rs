//! Matrices to the arrays of a package.

use half::bf16;
use rayon::prelude::*;
use zqc_formats::FormatError;
use zqc_formats::{FactorFormat, Factors, Format, LowRank, QuantizedMatrix, Scales};

use crate::fragment::{
    half, magnitude_bit, rank_offset, sign_bit, step_place, swizzled, thread, word_offset,
};
use crate::geometry::{BLOCK, Geometry, GeometryError, TILE};
use crate::manifest::{Codes, GroupScales};
use crate::table::Table;

/// Why a layer cannot be packed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The parts do not fit together.
    #[error(transparent)]
    Parts(#[from] FormatError),
    /// The shape is one that kernels do not take.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The weights have another number format.
    #[error("its weights are {0}, and kernels take 4-bit floating point; use --weights fp4 or e3m0")]
    Codes(Format),
    /// The scales of a row's groups are not bound to each other.
    #[error(
        "every group has a scale of its own, and kernels multiply by one scale a row; use --scale m3 (m2 for e3m0) or \
         --group-size 0"
    )]
    Scales,
    /// The low-rank factors have another number format.
    #[error("its low-rank factors are bf16, and kernels take e4m3; use --lorc-factors fp8")]
    Factors,
    /// The low-rank branch is that of another shape.
    #[error("its low-rank branch is {actual:?}, its weight {expected:?}")]
    Branch {
        /// Rows and columns of the weight.
        expected: [usize; 2],
        /// The dimensions of the branch.
        actual: [usize; 2],
    },
    /// The weight has another number of columns than one that reads the same activation.
    #[error("its weight has {actual} columns, and the activation that it reads {expected}")]
    Activation {
        /// Columns of the other weight.
        expected: usize,
        /// Columns of this one.
        actual: usize,
    },
    /// A number is NaN or infinite, or becomes so.
    #[error("{what} of row {row} is not finite; leave the layer in float with --keep, or use --lorc-rank 0")]
    NonFinite {
        /// What the number is.
        what: &'static str,
        /// Its row.
        row: usize,
    },
    /// The bias has another length.
    #[error("its bias holds {actual} values, its rows are {expected}")]
    Bias {
        /// Rows of the weight.
        expected: usize,
        /// Values of the bias.
        actual: usize,
    },
}

/// The arrays of a layer, as they lie in `weights.bin`, with what the manifest says of them.
pub(crate) struct PackedArrays {
    pub geometry: Geometry,
    pub codes: Codes,
    pub scales: GroupScales,
    pub table: Table,
    pub weights: Vec<u8>,
    pub row_scales: Vec<u8>,
    pub bias: Option<Vec<u8>>,
}

/// Packs a layer.
///
/// # Errors
/// When kernels cannot take it.
pub(crate) fn layer(
    matrix: &QuantizedMatrix,
    low_rank: Option<&LowRank>,
    bias: Option<&[f32]>,
) -> Result<PackedArrays, PackError> {
    matrix.check()?;
    let codes = Codes::of(matrix.format).ok_or(PackError::Codes(matrix.format))?;
    let whole_row = vec![0; matrix.rows];
    let (scales, row_scales, steps) = match &matrix.scales {
        Scales::Shifted { ladder, rows, shifts } => ((*ladder).into(), rows, shifts),
        Scales::Grouped(rows) if matrix.groups() == 1 => (GroupScales::Row, rows, &whole_row),
        Scales::Grouped(_) => return Err(PackError::Scales),
    };
    let unknown = || PackError::Codes(matrix.format);
    let ladder = scales.ladder(matrix.format).ok_or_else(unknown)?;
    let table = Table::new(matrix.format, ladder).ok_or_else(unknown)?;
    let unit = ladder.e4m3_exponent(matrix.format).map_or(1.0, |exponent| 2.0f32.powi(exponent));
    let rank = low_rank.map_or(0, |branch| branch.rank);
    let geometry = Geometry::new(matrix.rows, matrix.cols, matrix.group_size, rank)?;
    let row_scales: Vec<f32> = row_scales.iter().map(|scale| scale / unit).collect();
    finite("the scale", &row_scales)?;
    let up = low_rank.map_or(Ok(Vec::new()), |branch| up(branch, geometry, &row_scales))?;
    if let Some(bias) = bias {
        if bias.len() != matrix.rows {
            return Err(PackError::Bias { expected: matrix.rows, actual: bias.len() });
        }
        finite("the bias", bias)?;
    }
    Ok(PackedArrays {
        geometry,
        codes,
        scales,
        table,
        weights: weights(geometry, &matrix.codes, steps, &up),
        row_scales: rows(geometry, &row_scales),
        bias: bias.map(|bias| rows(geometry, bias)),
    })
}

/// The array `down` of an activation of `k` features: the inner factors of all branches that read it, one under the other.
/// Its bytes and its stacked rank.
///
/// # Errors
/// When a branch does not fit, or its factors are not E4M3 or not finite.
pub(crate) fn down(k: usize, branches: &[&LowRank]) -> Result<(Vec<u8>, usize), PackError> {
    let mut factors = Vec::new();
    let mut stacked = 0;
    for branch in branches {
        let Factors::E4M3 { down, .. } = check(branch)? else { return Err(PackError::Factors) };
        if branch.cols != k {
            return Err(PackError::Branch { expected: [branch.rows, k], actual: [branch.rows, branch.cols] });
        }
        if let Some(at) = down.iter().position(|&code| Format::E4M3.decode(code).is_nan()) {
            return Err(PackError::NonFinite { what: "the inner low-rank factor", row: at / k });
        }
        let geometry = Geometry::new(branch.rows, k, k, branch.rank)?;
        factors.push((stacked, down));
        stacked += geometry.rank16();
    }
    let mut bytes = vec![0; k.div_ceil(BLOCK) * stacked * BLOCK];
    for (first, down) in factors {
        for (row, codes) in down.chunks_exact(k).enumerate() {
            for (block, codes) in codes.chunks(BLOCK).enumerate() {
                let rows = &mut bytes[block * stacked * BLOCK..];
                for (chunk, codes) in codes.chunks(16).enumerate() {
                    rows[swizzled(first + row, 16 * chunk)..][..codes.len()].copy_from_slice(codes);
                }
            }
        }
    }
    Ok((bytes, stacked))
}

/// The factors of a branch whose parts fit together.
fn check(branch: &LowRank) -> Result<&Factors, PackError> {
    branch.check()?;
    match branch.format() {
        FactorFormat::E4M3 => Ok(&branch.factors),
        FactorFormat::Bf16 => Err(PackError::Factors),
    }
}

/// `U diag(s)` divided by the scales of the rows, in bf16: `[n][rank16]`.
fn up(branch: &LowRank, geometry: Geometry, row_scales: &[f32]) -> Result<Vec<bf16>, PackError> {
    check(branch)?;
    let (expected, actual) = ([geometry.n(), geometry.k()], [branch.rows, branch.cols]);
    if expected != actual {
        return Err(PackError::Branch { expected, actual });
    }
    let rank = branch.rank;
    let mut padded = vec![bf16::ZERO; geometry.n() * geometry.rank16()];
    let rows = padded.chunks_exact_mut(geometry.rank16()).zip(row_scales);
    for (row, ((padded, &row_scale), up)) in rows.zip(branch.up().chunks_exact(rank)).enumerate() {
        for ((padded, &up), &scale) in padded.iter_mut().zip(up).zip(&branch.scales) {
            if up != 0.0 {
                *padded = bf16::from_f64(f64::from(up) * f64::from(scale) / f64::from(row_scale));
            }
            if !padded.is_finite() {
                return Err(PackError::NonFinite { what: "the outer low-rank factor", row });
            }
        }
    }
    Ok(padded)
}

fn finite(what: &'static str, values: &[f32]) -> Result<(), PackError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(row) => Err(PackError::NonFinite { what, row }),
        None => Ok(()),
    }
}

/// A value a row, zeros behind the last.
fn rows(geometry: Geometry, values: &[f32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    bytes.resize(geometry.row_bytes(), 0);
    bytes
}

/// The array `weights`: `codes` `[n][k]`, `steps` `[n][groups]`, `up` `[n][rank16]`.
fn weights(geometry: Geometry, codes: &[u8], steps: &[u8], up: &[bf16]) -> Vec<u8> {
    let mut bytes = vec![0; geometry.weights_bytes()];
    let tiles = 2 * geometry.panels();
    bytes.par_chunks_exact_mut(tiles * geometry.block_bytes()).enumerate().for_each(
        |(block_index, bytes)| {
            for (tile, block) in bytes.chunks_exact_mut(geometry.block_bytes()).enumerate() {
                let rows = (tile * TILE..geometry.n()).take(TILE).enumerate();
                match block_index.checked_sub(geometry.blocks()) {
                    None => rows.for_each(|(row, n)| {
                        let columns =
                            codes[n * geometry.k()..][..geometry.k()].chunks(BLOCK).nth(block_index);
                        let steps = &steps[n * geometry.groups()..][..geometry.groups()];
                        pack_codes(block, row, columns.unwrap_or_default());
                        pack_steps(block, row, block_index, geometry, steps);
                    }),
                    Some(lorc_block) => rows.for_each(|(row, n)| {
                        let ranks =
                            up[n * geometry.rank16()..][..geometry.rank16()].chunks(32).nth(lorc_block);
                        for (rank, value) in ranks.unwrap_or_default().iter().enumerate() {
                            block[rank_offset(row, rank)..][..2].copy_from_slice(&value.to_le_bytes());
                        }
                    }),
                }
            }
        },
    );
    bytes
}

/// The codes of a row of a block, up to 128.
fn pack_codes(block: &mut [u8], row: usize, codes: &[u8]) {
    let mut padded = [0u8; BLOCK];
    padded[..codes.len()].copy_from_slice(codes);
    for (j, columns) in padded.chunks_exact(32).enumerate() {
        for quarter in 0..4 {
            let nearer = &columns[4 * quarter..][..4];
            let farther = &columns[16 + 4 * quarter..][..4];
            let word = nearer.iter().chain(farther).enumerate().fold(0u32, |word, (i, &code)| {
                word | u32::from(code & 7) << magnitude_bit(i) | u32::from(code >> 3 & 1) << sign_bit(i)
            });
            let offset = word_offset(thread(row, quarter), j, half(row));
            block[offset..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// The steps of the groups of a row that a block holds; `steps` are those of the whole row.
fn pack_steps(block: &mut [u8], row: usize, index: usize, geometry: Geometry, steps: &[u8]) {
    let per_block = geometry.steps_per_block();
    let (offset, bit) = step_place(row, per_block);
    for slot in 0..per_block {
        let column = BLOCK * index + BLOCK / per_block * slot;
        let step = steps.get(column / geometry.group_size()).copied().unwrap_or(0);
        block[offset + slot] |= step << bit;
    }
}
