//! The scale and the zero point of a group of weights.

use zqc_formats::{Format, Ladder, Levels, WeightFormat};

use crate::{
    columns::{Column, ROWS},
    levels::GroupLevels,
};

/// How the scale of a group of weights is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ScaleSearch {
    /// `max|w| / format.max()`: no weight saturates. Of an asymmetric format, the range of the weights and 0 divided by the
    /// steps between the least and the largest code. A group of zeros has scale 1.
    Max,
    /// Of that scale times 0.55, 0.575, ..., 1.15, the one of least squared error; of E2M1 up to 1.6.
    Mse,
    /// The same, the squared error of each weight multiplied by its entry of the Hessian's diagonal. Without a Hessian all
    /// weights count alike, as in [`ScaleSearch::Mse`].
    ///
    /// GPTQ's own weight, `1 / U[j][j]²` for `U` the Cholesky factor of the inverse Hessian, leaves 6 % less output error
    /// on the layers of SmolLM2-135M, yet the same perplexity on WikiText-2 and a 4 % higher one on C4.
    #[default]
    Hessian,
}

/// The ratios to the scale of [`ScaleSearch::Max`] that are searched, in fortieths.
const RATIOS: std::ops::RangeInclusive<u8> = 22..=46;

/// The last of them for E2M1, which has no value between 4 and 6: at 1.5 the largest weight of a group becomes 4
/// ("Four over Six", arXiv 2512.02010).
const LAST_RATIO_OF_E2M1: u8 = 64;

/// How the weights of a group become codes in every row: `round(w / scale + zero)`.
#[derive(Clone, Copy)]
pub(crate) struct GroupScale {
    pub scale: Column,
    /// The zero point, an integer; -0 in a symmetric format, which leaves even the sign of a zero weight alone.
    pub zero: Column,
    /// The step of [`Ladder::M8`](zqc_formats::Ladder), which is no part of the scale; 0 without.
    pub step: [u8; ROWS],
}

impl GroupScale {
    /// Not found yet.
    pub const NONE: Self = Self { scale: [0.0; ROWS], zero: [-0.0; ROWS], step: [0; ROWS] };

    /// Steps of a ladder below the scales of the rows.
    #[inline(always)]
    pub fn on_ladder(ladder: Ladder, rows: &Column, steps: &[u8; ROWS]) -> Self {
        match ladder {
            Ladder::M8 => Self { scale: *rows, step: *steps, ..Self::NONE },
            Ladder::M2 | Ladder::M3 => {
                let scale = std::array::from_fn(|row| rows[row] * ladder.factor(steps[row]));
                Self { scale, ..Self::NONE }
            }
        }
    }
}

impl ScaleSearch {
    /// The scales of each group of `group_size` of `columns`. Squared errors of column `j` count by `importance[j]`.
    #[inline(always)]
    pub(crate) fn scales(
        self,
        format: WeightFormat,
        columns: &[Column],
        importance: &[f32],
        group_size: usize,
    ) -> Vec<GroupScale> {
        let groups = columns.chunks(group_size).zip(importance.chunks(group_size));
        groups.map(|(group, importance)| self.group_scale(format, group, importance)).collect()
    }

    /// The scales of one group. A ratio to the widest range leaves the zero point where it is.
    #[inline(always)]
    pub(crate) fn group_scale(
        self,
        format: WeightFormat,
        group: &[Column],
        importance: &[f32],
    ) -> GroupScale {
        let WeightFormat { format, asymmetric } = format;
        let widest = if asymmetric { range(format, group) } else { symmetric(format, group) };
        if self == Self::Max {
            return widest;
        }
        let mut best = widest;
        let mut least = squared_error(format, group, importance, &best);
        let last = if format == Format::E2M1 { LAST_RATIO_OF_E2M1 } else { *RATIOS.end() };
        for ratio in *RATIOS.start()..=last {
            let scale = widest.scale.map(|scale| scale * (f32::from(ratio) / 40.0));
            let error = squared_error(format, group, importance, &GroupScale { scale, ..widest });
            for row in 0..ROWS {
                let better = error[row] < least[row];
                least[row] = if better { error[row] } else { least[row] };
                best.scale[row] = if better { scale[row] } else { best.scale[row] };
            }
        }
        best
    }
}

/// The scale, or that of zeros where it is 0: 1, which divides and multiplies harmlessly, or so little that a value of a
/// format without 0 is next to nothing.
pub(crate) fn nonzero_scale(format: Format, scale: f32) -> f32 {
    match format.levels() {
        _ if scale != 0.0 => scale,
        Levels::Even(_) => 1.0,
        Levels::Table(_) => 1e-30,
    }
}

/// The least scales at which no weight saturates, without zero points.
#[inline(always)]
fn symmetric(format: Format, group: &[Column]) -> GroupScale {
    GroupScale {
        scale: largest(group).map(|max_abs| nonzero_scale(format, max_abs / format.max())),
        ..GroupScale::NONE
    }
}

/// The largest magnitude of every row.
#[inline(always)]
pub(crate) fn largest(group: &[Column]) -> Column {
    let mut largest = [0.0f32; ROWS];
    for column in group {
        for (largest, value) in largest.iter_mut().zip(column) {
            *largest = if value.abs() > *largest { value.abs() } else { *largest };
        }
    }
    largest
}

/// The scales that map the range of the weights and 0 to all codes, and the zero points of it.
#[inline(always)]
fn range(format: Format, group: &[Column]) -> GroupScale {
    let Levels::Even(grid) = format.levels() else { return symmetric(format, group) };
    let (mut low, mut high) = ([0.0f32; ROWS], [0.0f32; ROWS]);
    for column in group {
        for ((low, high), &value) in low.iter_mut().zip(&mut high).zip(column) {
            *low = if value < *low { value } else { *low };
            *high = if value > *high { value } else { *high };
        }
    }
    let mut found = GroupScale::NONE;
    for row in 0..ROWS {
        let scale = (high[row] - low[row]) / (grid.max - grid.min);
        found.scale[row] = if scale == 0.0 { 1.0 } else { scale };
        found.zero[row] = grid.round(grid.min - low[row] / found.scale[row]);
    }
    found
}

/// The sum over the columns of `importance * (w - ŵ)²`, for every row.
#[inline(always)]
pub(crate) fn squared_error(
    format: Format,
    group: &[Column],
    importance: &[f32],
    found: &GroupScale,
) -> Column {
    let levels = GroupLevels::new(format, found);
    let mut sum = [0.0; ROWS];
    for (column, importance) in group.iter().zip(importance) {
        let (_, rounded) = levels.round(column);
        for ((sum, value), rounded) in sum.iter_mut().zip(column).zip(&rounded) {
            let error = value - rounded;
            *sum += importance * error * error;
        }
    }
    sum
}
