//! GPTQ: column by column rounding that pushes each error onto the columns still to come.
//!
//! Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (ICLR 2023),
//! algorithm 1: Cholesky factor of the inverse Hessian, updates beyond a block of columns done lazily by one matrix
//! product; column order and static groups as in the authors' code.

use std::ops::Range;

use zqc_formats::{
    QuantizedMatrix,
    grid::max_abs,
    matrix::{View, subtract_product},
};

use crate::{
    Grouping, Hessian, Order, ScaleConstraint, ScaleSearch, SolveError,
    columns::{Column, ROWS, to_columns},
    inverse_factor::InverseFactor,
    levels::GroupLevels,
    row_scales::RowScales,
    scale_search::GroupScale,
    weight::check_weight,
    weight::resolve_group_size,
};

/// How to solve a weight matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GptqOptions {
    /// What the weights become.
    pub grouping: Grouping,
    /// Which column is quantized when.
    pub order: Order,
    /// What is added to the Hessian's diagonal, relative to the mean of that diagonal.
    pub damping: f64,
    /// Columns between two lazy updates: affects speed, and the result by rounding only. Blocks are cut where groups
    /// need it, so any combination with the group size is right.
    pub block_size: usize,
}

impl Default for GptqOptions {
    /// The default [`Grouping`], activation order, damping 0.01, blocks of 128.
    fn default() -> Self {
        Self { grouping: Grouping::default(), order: Order::default(), damping: 0.01, block_size: 128 }
    }
}

/// [`ROWS`] rows of weights, rounded.
struct Rounded {
    /// In units of the scales, from the zero point: `[K][ROWS]`, in natural order.
    values: Vec<Column>,
    scales: RowScales,
    /// `(w - ŵ) (H/h + λI) (w - ŵ)ᵀ` of every row, as the sum of GPTQ's squared errors.
    loss: Column,
}

impl Rounded {
    /// Takes over the rows that lose less in `other`.
    fn take_better_rows(&mut self, other: &Self) {
        for row in 0..ROWS {
            if other.loss[row] >= self.loss[row] {
                continue;
            }
            self.loss[row] = other.loss[row];
            self.values.iter_mut().zip(&other.values).for_each(|(ours, theirs)| ours[row] = theirs[row]);
            self.scales.take_row(&other.scales, row);
        }
    }
}

/// A Hessian made ready to solve weights with: layers that read the same input share it.
pub struct Gptq {
    k: usize,
    options: GptqOptions,
    damping: f64,
    /// By how much the squared rounding error of each column counts in the search for scales, in natural order.
    importance: Vec<f32>,
    /// Whether scales come from the original weights, before the first column is quantized.
    static_groups: bool,
    /// Positions between two lazy updates; positions count columns in the order they are quantized in.
    blocks: Vec<Range<usize>>,
    /// The column at each position.
    permutation: Vec<usize>,
    /// [`InverseFactor::transposed`].
    factor: Vec<f32>,
}

impl Gptq {
    /// Factors `hessian`.
    ///
    /// # Errors
    ///
    /// Those [`SolveError`]s that are about the options or the Hessian; [`SolveError::NoTokens`] asks for a solver that
    /// needs no calibration, such as [`rtn`](crate::rtn).
    pub fn new(hessian: &Hessian, options: GptqOptions) -> Result<Self, SolveError> {
        options.grouping.check()?;
        if !(options.damping.is_finite() && options.damping >= 0.0) {
            return Err(SolveError::Damping(options.damping));
        }
        if options.block_size == 0 {
            return Err(SolveError::BlockSize);
        }
        let permutation = options.order.permutation(hessian);
        let InverseFactor { transposed, damping } =
            InverseFactor::new(hessian, &permutation, options.damping)?;
        let (cols, mean) = (hessian.k(), hessian.mean_diagonal());
        let Grouping { group_size, scale_search, constraint, .. } = options.grouping;
        let group_size = resolve_group_size(group_size, cols);
        Ok(Self {
            k: cols,
            options,
            damping,
            importance: match scale_search {
                ScaleSearch::Hessian => hessian.diagonal().map(|h| importance(h / mean)).collect(),
                ScaleSearch::Max | ScaleSearch::Mse => vec![1.0; cols],
            },
            static_groups: options.order == Order::Activation || constraint != ScaleConstraint::None,
            blocks: match options.order {
                Order::Natural => blocks(cols, group_size, options.block_size),
                Order::Activation => blocks(cols, cols, options.block_size),
            },
            permutation,
            factor: transposed,
        })
    }

    /// The relative damping used: the option's, or more where the Hessian could not be factored with it.
    pub fn damping(&self) -> f64 {
        self.damping
    }

    /// Quantizes `weight` `[rows, K]` such that the layer's output on the tokens of the Hessian changes least.
    ///
    /// Weights of features that are zero on every token change no output on these tokens; they are rounded to nearest, for
    /// the tokens on which the features are not zero.
    ///
    /// # Errors
    ///
    /// Those [`SolveError`]s that are about the weight.
    pub fn solve(&self, weight: &[f32], rows: usize) -> Result<QuantizedMatrix, SolveError> {
        check_weight(weight, rows, self.k)?;
        self.options.grouping.quantize(weight, rows, self.k, |weight| self.solve_rows(weight))
    }

    /// Solves at most [`ROWS`] rows of the weight matrix: the weights in units of their scales, from the zero point,
    /// rounded, `[K][ROWS]`, and the scales. Where there is a choice of scales, every row keeps those that lose least: the
    /// search before the solve does not know how the errors of a row add up.
    fn solve_rows(&self, weight: &[f32]) -> Result<(Vec<Column>, RowScales), SolveError> {
        let natural = to_columns(weight, self.k);
        let grouping = &self.options.grouping;
        let scales = if self.static_groups {
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || grouping.scales(&natural, &self.importance, grouping.constraint.choices()),
            )
        } else {
            let cols = natural.len();
            let groups = cols.div_ceil(resolve_group_size(grouping.group_size, cols));
            vec![RowScales::free(vec![GroupScale::NONE; groups])]
        };
        let mut best: Option<Rounded> = None;
        for scales in scales {
            let rounded = self.round(&natural, scales)?;
            match &mut best {
                Some(best) => best.take_better_rows(&rounded),
                None => best = Some(rounded),
            }
        }
        let Rounded { values, scales, .. } = best.expect("there is at least one choice of scales");
        Ok((values, scales))
    }

    /// Rounds the columns, in natural order, with these scales.
    fn round(&self, natural: &[Column], mut scales: RowScales) -> Result<Rounded, SolveError> {
        let cols = natural.len();
        let mut columns: Vec<Column> = self.permutation.iter().map(|&col| natural[col]).collect();
        let longest = self.blocks.iter().map(Range::len).max().unwrap_or(0);
        let mut errors = vec![[0.0; ROWS]; longest];
        let mut loss = [0.0; ROWS];
        for block in &self.blocks {
            let errors = &mut errors[..block.len()];
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || self.round_block(block.clone(), &mut columns, &mut scales.groups, errors),
            );
            if !max_abs(errors.as_flattened()).is_finite() {
                return Err(SolveError::Overflow);
            }
            for error in &*errors {
                loss.iter_mut().zip(error).for_each(|(loss, error)| *loss += error * error);
            }
            if block.end < cols {
                subtract_product(
                    columns[block.end..].as_flattened_mut(),
                    View::row_major(&self.factor[block.end * cols..], cols).columns(block.clone()),
                    View::row_major(errors.as_flattened(), ROWS),
                );
            }
        }
        let mut values = vec![[0.0; ROWS]; cols];
        for (&col, column) in self.permutation.iter().zip(columns) {
            values[col] = column;
        }
        Ok(Rounded { values, scales, loss })
    }

    /// Rounds the columns at the positions of `block` in place, and leaves in `errors` what the columns beyond must make
    /// up for.
    #[inline(always)]
    fn round_block(
        &self,
        block: Range<usize>,
        columns: &mut [Column],
        scales: &mut [GroupScale],
        errors: &mut [Column],
    ) {
        let Grouping { format, group_size, scale_search, .. } = self.options.grouping;
        let cols = columns.len();
        let group_size = resolve_group_size(group_size, cols);
        for (at, error) in block.clone().zip(errors) {
            let group = self.permutation[at] / group_size;
            if !self.static_groups && at.is_multiple_of(group_size) {
                let members = at..(at + group_size).min(cols);
                scales[group] =
                    scale_search.group_scale(format, &columns[members.clone()], &self.importance[members]);
            }
            let (column, later) =
                columns[at..block.end].split_first_mut().expect("the block holds this column");
            let pivot = self.factor[at * cols + at];
            let (values, weights) = GroupLevels::new(format.format, &scales[group]).round(column);
            for ((error, value), weight) in error.iter_mut().zip(&*column).zip(&weights) {
                *error = (value - weight) / pivot;
            }
            *column = values;
            for (target, later) in (at + 1..).zip(later) {
                let share = self.factor[target * cols + at];
                for (value, error) in later.iter_mut().zip(error.iter()) {
                    *value -= share * error;
                }
            }
        }
    }
}

/// By how much the rounding errors of a feature count in the search for scales, given its energy relative to the mean. One
/// that is zero on every token counts as the mean does: nothing is known of it but that it was not seen.
fn importance(energy: f64) -> f32 {
    if energy == 0.0 { 1.0 } else { energy as f32 }
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
