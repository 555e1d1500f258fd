//! The values that the weights of a group can become.

use zqc_formats::{Format, Ladder, Levels, LookupTable, grid::Grid};

use crate::{
    columns::{Column, ROWS},
    scale_search::GroupScale,
};

/// The values that the weights of a group can become in every row.
#[expect(clippy::large_enum_variant, reason = "it lives on the stack while one group is rounded")]
pub(crate) enum GroupLevels<'a> {
    /// `(v - zero) * scale` for `v` of a grid.
    Even { grid: Grid, scale: &'a Column, zero: &'a Column },
    /// Those of a table, at the step of each row.
    Table {
        table: LookupTable,
        /// The magnitudes, `[8][ROWS]`.
        magnitudes: [Column; 8],
        /// Halfway between each and the next, `[7][ROWS]`.
        midpoints: [Column; 7],
    },
}

impl<'a> GroupLevels<'a> {
    /// Those of a format in a group with this scale.
    #[inline(always)]
    pub fn new(format: Format, group: &'a GroupScale) -> Self {
        let GroupScale { scale, zero, step } = group;
        let table = match format.levels() {
            Levels::Even(grid) => return Self::Even { grid, scale, zero },
            Levels::Table(table) => table,
        };
        let magnitudes = table.magnitudes.map(|magnitude| {
            let mut column = *scale;
            for (scale, &step) in column.iter_mut().zip(step) {
                *scale *= Ladder::M8.apply(magnitude, step);
            }
            column
        });
        let mut midpoints = [[0.0; ROWS]; 7];
        for (at, midpoints) in midpoints.iter_mut().enumerate() {
            for ((midpoint, below), above) in
                midpoints.iter_mut().zip(&magnitudes[at]).zip(&magnitudes[at + 1])
            {
                *midpoint = 0.5 * (below + above);
            }
        }
        Self::Table { table, magnitudes, midpoints }
    }

    /// The nearest value to each weight of a column: as the format has it, from which its code follows, and as it stands for a
    /// weight.
    #[inline(always)]
    pub fn round(&self, column: &Column) -> (Column, Column) {
        let (mut values, mut weights) = ([0.0; ROWS], [0.0; ROWS]);
        match self {
            Self::Even { grid, scale, zero } => {
                for row in 0..ROWS {
                    values[row] = grid.round(column[row] / scale[row] + zero[row]);
                    weights[row] = (values[row] - zero[row]) * scale[row];
                }
            }
            Self::Table { table, magnitudes, midpoints } => {
                values = [table.magnitudes[0]; ROWS];
                weights = magnitudes[0];
                for at in 0..7 {
                    let value = table.magnitudes[at + 1];
                    for row in 0..ROWS {
                        let above = column[row].abs() > midpoints[at][row];
                        values[row] = if above { value } else { values[row] };
                        weights[row] = if above { magnitudes[at + 1][row] } else { weights[row] };
                    }
                }
                for row in 0..ROWS {
                    values[row] = values[row].copysign(column[row]);
                    weights[row] = weights[row].copysign(column[row]);
                }
            }
        }
        (values, weights)
    }
}
