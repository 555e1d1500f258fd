//! GPTQ: column by column rounding that pushes each error onto the columns still to come.
//!
//! Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (ICLR 2023),
//! algorithm 1: Cholesky factor of the inverse Hessian, updates beyond a block of columns done lazily by one matrix
//! product; column order and static groups as in the authors' code.

use std::ops::Range;

use rayon::prelude::*;

use crate::{
    Format, Hessian, Order, QuantizedMatrix, ScaleSearch, SolveError,
    columns::{Column, ROWS, to_columns, to_rows},
    grid::{Grid, max_abs},
    inverse_factor::InverseFactor,
    matrix::{View, subtract_product},
    quantized::{check_weight, ratio, resolve_group_size},
};

/// How to solve a weight matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GptqOptions {
    /// Format of the codes.
    pub format: Format,
    /// Input features that share a scale; 0 for the whole row.
    pub group_size: usize,
    /// Which column is quantized when.
    pub order: Order,
    /// How the scale of a group is found.
    pub scale_search: ScaleSearch,
    /// What is added to the Hessian's diagonal, relative to the mean of that diagonal.
    pub damping: f64,
    /// Columns between two lazy updates: affects speed, and the result by rounding only. Blocks are cut where groups
    /// need it, so any combination with `group_size` is right.
    pub block_size: usize,
}

impl Default for GptqOptions {
    /// E2M1 in groups of 128, activation order, Hessian-weighted scales, damping 0.01, blocks of 128.
    fn default() -> Self {
        Self {
            format: Format::E2M1,
            group_size: 128,
            order: Order::default(),
            scale_search: ScaleSearch::default(),
            damping: 0.01,
            block_size: 128,
        }
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
    let permutation = options.order.permutation(hessian);
    let InverseFactor { transposed, damping } = InverseFactor::new(hessian, &permutation, options.damping)?;
    let group_size = resolve_group_size(options.group_size, cols);
    let mean = hessian.mean_diagonal();
    let problem = Problem {
        grid: options.format.grid(),
        group_size,
        scale_search: options.scale_search,
        importance: match options.scale_search {
            ScaleSearch::Hessian => hessian.diagonal().map(|h| (h / mean) as f32).collect(),
            ScaleSearch::Max | ScaleSearch::Mse => vec![1.0; cols],
        },
        static_groups: options.order == Order::Activation,
        blocks: match options.order {
            Order::Natural => blocks(cols, group_size, options.block_size),
            Order::Activation => blocks(cols, cols, options.block_size),
        },
        permutation,
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
            to_rows(codes, &solved.values, |value| options.format.encode(value));
            to_rows(scales, &solved.scales, |scale| scale);
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

/// What all rows share. Positions count columns in the order they are quantized in.
struct Problem {
    grid: Grid,
    group_size: usize,
    scale_search: ScaleSearch,
    /// By how much the squared rounding error of each column counts in the search for scales, in natural order.
    importance: Vec<f32>,
    /// Whether scales come from the original weights, before the first column is quantized.
    static_groups: bool,
    /// Positions between two lazy updates.
    blocks: Vec<Range<usize>>,
    /// The column at each position.
    permutation: Vec<usize>,
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
        let cols = self.permutation.len();
        let arch = pulp::Arch::new();
        let mut natural = self.live_columns(weight);
        let mut scales = if self.static_groups {
            arch.dispatch(
                #[inline(always)]
                || self.scale_search.scales(self.grid, &natural, &self.importance, self.group_size),
            )
        } else {
            vec![[0.0; ROWS]; cols.div_ceil(self.group_size)]
        };
        let mut columns: Vec<Column> = self.permutation.iter().map(|&col| natural[col]).collect();
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
        for (&col, column) in self.permutation.iter().zip(columns) {
            natural[col] = column;
        }
        Ok(SolvedRows { values: natural, scales })
    }

    /// Rows of the weight matrix as columns, zero where the feature is dead.
    fn live_columns(&self, weight: &[f32]) -> Vec<Column> {
        let mut columns = to_columns(weight, self.dead.len());
        for (column, _) in columns.iter_mut().zip(&self.dead).filter(|&(_, &dead)| dead) {
            column.fill(0.0);
        }
        columns
    }

    /// Rounds the columns at the positions of `block` in place, and leaves in `errors` what the columns beyond must make
    /// up for.
    #[inline(always)]
    fn round_block(
        &self,
        block: Range<usize>,
        columns: &mut [Column],
        scales: &mut [Column],
        errors: &mut [Column],
    ) {
        let cols = columns.len();
        for (at, error) in block.clone().zip(errors) {
            let group = self.permutation[at] / self.group_size;
            if !self.static_groups && at.is_multiple_of(self.group_size) {
                let members = at..(at + self.group_size).min(cols);
                scales[group] = self.scale_search.group_scale(
                    self.grid,
                    &columns[members.clone()],
                    &self.importance[members],
                );
            }
            let (column, later) =
                columns[at..block.end].split_first_mut().expect("the block holds this column");
            let pivot = self.factor[at * cols + at];
            for ((value, error), &scale) in column.iter_mut().zip(error.iter_mut()).zip(&scales[group]) {
                let rounded = self.grid.round(*value / scale);
                *error = (*value - rounded * scale) / pivot;
                *value = rounded;
            }
            for (target, later) in (at + 1..).zip(later) {
                let share = self.factor[target * cols + at];
                for (value, error) in later.iter_mut().zip(error.iter()) {
                    *value -= share * error;
                }
            }
        }
    }
}
