//! GPTQ: column by column rounding that pushes each error onto the columns still to come.
//!
//! Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (ICLR 2023),
//! algorithm 1: natural column order, Cholesky factor of the inverse Hessian, updates beyond a block of columns done
//! lazily by one matrix product. Group scales come from the weights as updated when the group is reached.

use std::ops::Range;

use rayon::prelude::*;

use crate::{
    Format, Hessian, QuantizedMatrix, SolveError,
    grid::{Grid, max_abs},
    inverse_factor::InverseFactor,
    matrix::{View, subtract_product},
    quantized::{check_weight, ratio, resolve_group_size},
};

/// Output features solved together. Given the factor, rows are independent; a constant number of them makes the
/// partition independent of the number of threads, and the innermost loops of constant length.
const ROWS: usize = 128;

/// One input feature of [`ROWS`] output features.
type Column = [f32; ROWS];

/// How to solve a weight matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GptqOptions {
    /// Format of the codes.
    pub format: Format,
    /// Input features that share a scale; 0 for the whole row.
    pub group_size: usize,
    /// What is added to the Hessian's diagonal, relative to the mean of that diagonal.
    pub damping: f64,
    /// Columns between two lazy updates: affects speed, and the result by rounding only. Blocks are cut where groups
    /// need it, so any combination with `group_size` is right.
    pub block_size: usize,
}

impl Default for GptqOptions {
    /// E2M1 in groups of 128, damping 0.01, blocks of 128.
    fn default() -> Self {
        Self { format: Format::E2M1, group_size: 128, damping: 0.01, block_size: 128 }
    }
}

/// A solved weight matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// Codes and scales.
    pub matrix: QuantizedMatrix,
    /// The relative damping used: the option's, or more where the Hessian could not be factored with it.
    pub damping: f64,
    /// `tr((W - Ŵ) H (W - Ŵ)ᵀ) / tr(W H Wᵀ)`: squared error of the layer's output on the calibration tokens, relative
    /// to its energy; 0 when both are zero.
    pub output_error: f64,
}

/// Quantizes `weight` `[rows, cols]` such that the layer's output on the tokens of `hessian` changes least.
///
/// Features that are zero on every token get weight 0.
///
/// # Errors
///
/// Every [`SolveError`]; [`SolveError::NoTokens`] asks for a solver that needs no calibration, such as
/// [`rtn`](crate::rtn).
pub fn gptq(
    weight: &[f32],
    rows: usize,
    cols: usize,
    hessian: &Hessian,
    options: &GptqOptions,
) -> Result<Solution, SolveError> {
    check_weight(weight, rows, cols)?;
    if hessian.k() != cols {
        return Err(SolveError::HessianSize { hessian: hessian.k(), weight: cols });
    }
    if !(options.damping.is_finite() && options.damping >= 0.0) {
        return Err(SolveError::Damping(options.damping));
    }
    if options.block_size == 0 {
        return Err(SolveError::BlockSize);
    }
    let InverseFactor { transposed, damping } = InverseFactor::new(hessian, options.damping)?;
    let group_size = resolve_group_size(options.group_size, cols);
    let problem = Problem {
        grid: options.format.grid(),
        group_size,
        blocks: blocks(cols, group_size, options.block_size),
        dead: hessian.diagonal().map(|h| h == 0.0).collect(),
        factor: transposed,
    };

    let groups = cols.div_ceil(group_size);
    let mut codes = vec![0; rows * cols];
    let mut scales = vec![0.0; rows * groups];
    codes
        .par_chunks_mut(ROWS * cols)
        .zip(scales.par_chunks_mut(ROWS * groups))
        .zip(weight.par_chunks(ROWS * cols))
        .try_for_each(|((codes, scales), weight)| {
            let solved = problem.solve(weight)?;
            transpose_into(codes, &solved.values, |value| options.format.encode(value));
            transpose_into(scales, &solved.scales, |scale| scale);
            Ok(())
        })?;

    let matrix = QuantizedMatrix { format: options.format, rows, cols, group_size, codes, scales };
    let residual: Vec<f32> = matrix.dequantize().iter().zip(weight).map(|(q, w)| w - q).collect();
    let output_error = ratio(hessian.output_energy(&residual), hessian.output_energy(weight));
    Ok(Solution { matrix, damping, output_error })
}

/// Cuts the columns into blocks of at most `block_size`, each of them whole groups or part of one group, so that a group
/// is up to date with every earlier column when it starts.
fn blocks(cols: usize, group_size: usize, block_size: usize) -> Vec<Range<usize>> {
    let panel = group_size * (block_size / group_size).max(1);
    (0..cols)
        .step_by(panel)
        .flat_map(|start| {
            let end = (start + panel).min(cols);
            (start..end).step_by(block_size).map(move |start| start..(start + block_size).min(end))
        })
        .collect()
}

/// What all rows share.
struct Problem {
    grid: Grid,
    group_size: usize,
    blocks: Vec<Range<usize>>,
    /// Features that are zero on every token.
    dead: Vec<bool>,
    /// [`InverseFactor::transposed`].
    factor: Vec<f32>,
}

/// Solved rows, transposed.
struct SolvedRows {
    /// Weights divided by their scales and rounded, `[K][ROWS]`.
    values: Vec<Column>,
    /// Scales `[groups][ROWS]`.
    scales: Vec<Column>,
}

impl Problem {
    /// Solves at most [`ROWS`] rows of the weight matrix.
    fn solve(&self, weight: &[f32]) -> Result<SolvedRows, SolveError> {
        let cols = self.dead.len();
        let arch = pulp::Arch::new();
        let mut columns = self.live_columns(weight);
        let mut scales = vec![[0.0; ROWS]; cols.div_ceil(self.group_size)];
        let longest = self.blocks.iter().map(Range::len).max().unwrap_or(0);
        let mut errors = vec![[0.0; ROWS]; longest];
        for block in &self.blocks {
            let errors = &mut errors[..block.len()];
            arch.dispatch(
                #[inline(always)]
                || self.round_block(block.clone(), &mut columns, &mut scales, errors),
            );
            if !max_abs(errors.as_flattened()).is_finite() {
                return Err(SolveError::Overflow);
            }
            if block.end < cols {
                subtract_product(
                    columns[block.end..].as_flattened_mut(),
                    View::row_major(&self.factor[block.end * cols..], cols).columns(block.clone()),
                    View::row_major(errors.as_flattened(), ROWS),
                );
            }
        }
        Ok(SolvedRows { values: columns, scales })
    }

    /// Rows of the weight matrix as columns, zero where the feature is dead and beyond the last row.
    fn live_columns(&self, weight: &[f32]) -> Vec<Column> {
        let mut columns = vec![[0.0; ROWS]; self.dead.len()];
        for (row, weight) in weight.chunks_exact(self.dead.len()).enumerate() {
            for ((column, &value), &dead) in columns.iter_mut().zip(weight).zip(&self.dead) {
                column[row] = if dead { 0.0 } else { value };
            }
        }
        columns
    }

    /// Rounds the columns of `block` in place, and leaves in `errors` what the columns beyond must make up for.
    #[inline(always)]
    fn round_block(
        &self,
        block: Range<usize>,
        columns: &mut [Column],
        scales: &mut [Column],
        errors: &mut [Column],
    ) {
        let cols = columns.len();
        for (col, error) in block.clone().zip(errors) {
            let scale = &mut scales[col / self.group_size];
            if col.is_multiple_of(self.group_size) {
                *scale = self.group_scales(&columns[col..(col + self.group_size).min(cols)]);
            }
            let (column, later) = columns[col..block.end].split_first_mut().expect("col is in the block");
            let pivot = self.factor[col * cols + col];
            for ((value, error), &scale) in column.iter_mut().zip(error.iter_mut()).zip(scale.iter()) {
                let rounded = self.grid.round(*value / scale);
                *error = (*value - rounded * scale) / pivot;
                *value = rounded;
            }
            for (target, later) in (col + 1..).zip(later) {
                let share = self.factor[target * cols + col];
                for (value, error) in later.iter_mut().zip(error.iter()) {
                    *value -= share * error;
                }
            }
        }
    }

    /// The scale of every row for a group of columns.
    #[inline(always)]
    fn group_scales(&self, group: &[Column]) -> Column {
        let mut largest = [0.0f32; ROWS];
        for column in group {
            for (largest, value) in largest.iter_mut().zip(column) {
                *largest = if value.abs() > *largest { value.abs() } else { *largest };
            }
        }
        largest.map(|max_abs| self.grid.scale(max_abs))
    }
}

/// Writes the rows of `columns` one after another, as many as `rows` has room for.
fn transpose_into<T>(rows: &mut [T], columns: &[Column], convert: impl Fn(f32) -> T) {
    for (row, out) in rows.chunks_exact_mut(columns.len()).enumerate() {
        for (out, column) in out.iter_mut().zip(columns) {
            *out = convert(column[row]);
        }
    }
}
