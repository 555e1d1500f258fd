//! Constraints between the scales of a row's groups, so that kernels can fold them into the weight's exponent.
//!
//! M1 and M2 are those of ZeroQuant-FP (arXiv 2307.09782), as we read it: scales that are powers of two, and scales whose
//! ratios are, snapped from unconstrained ones. By default the scale of the row and the steps of its groups are searched
//! jointly instead, before the first weight is rounded.

use crate::{
    Ladder, ScaleSearch, SolveError, WeightFormat,
    columns::{Column, ROWS},
    scale_search::{GroupScale, largest, squared_error},
};

/// How the scales of a row's groups are bound to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleConstraint {
    /// Not at all.
    None,
    /// Every scale is a power of two.
    M1(Snap),
    /// Every scale is a power of two times the scale of the row.
    M2(Snap),
    /// Every scale is a step of [`Ladder::Thirds`] times the scale of the row; searched.
    M3,
}

impl Default for ScaleConstraint {
    /// M3.
    fn default() -> Self {
        Self::M3
    }
}

/// How a constrained scale is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Snap {
    /// By the squared error that [`ScaleSearch`] weighs, jointly for the row and its groups.
    #[default]
    Search,
    /// From the unconstrained scale `S`. M1: `2^ceil(log2 S)`, which clips nothing. M2, with the row's largest scale `R`:
    /// `R / 2^ceil(log2(R / S))`, which clips by up to a factor of 2.
    Ceil,
    /// The same with the floor: M1 clips, M2 does not.
    Floor,
    /// The same, rounded to nearest.
    Round,
}

impl Snap {
    fn integer(self, log2: f32) -> f32 {
        match self {
            Self::Ceil => log2.ceil(),
            Self::Floor => log2.floor(),
            Self::Round | Self::Search => log2.round(),
        }
    }
}

/// The scales of [`ROWS`] rows.
pub(crate) struct RowScales {
    /// Of every group.
    pub groups: Vec<GroupScale>,
    /// What the scales of the groups are made of, when they are constrained.
    pub constrained: Option<Steps>,
}

/// Scales as steps of a ladder.
pub(crate) struct Steps {
    /// The scale of every row.
    pub rows: Column,
    /// The step of every group.
    pub steps: Vec<[u8; ROWS]>,
}

/// Scales of a row that are tried, in an octave. A scale is thus at most 3 % off.
const ROW_SCALES: u8 = 12;

/// The least and the largest ratio of a group's scale to the one that maps its largest weight to the largest code.
const RATIOS: [f32; 2] = [0.55, 1.6];

impl ScaleConstraint {
    /// The ladder that the scales lie on.
    pub fn ladder(self) -> Option<Ladder> {
        match self {
            Self::None => None,
            Self::M1(_) | Self::M2(_) => Some(Ladder::Octaves),
            Self::M3 => Some(Ladder::Thirds),
        }
    }

    /// Whether the format can have such scales.
    pub(crate) fn check(self, format: WeightFormat) -> Result<(), SolveError> {
        match self.ladder() {
            Some(ladder) if ladder.max_shift(format.format).is_none() => {
                Err(SolveError::Shifted { format: format.format, ladder })
            }
            _ => Ok(()),
        }
    }

    /// The scales of each group of `group_size` of `columns`. Squared errors of column `j` count by `importance[j]`.
    #[inline(always)]
    pub(crate) fn scales(
        self,
        search: ScaleSearch,
        format: WeightFormat,
        columns: &[Column],
        importance: &[f32],
        group_size: usize,
    ) -> RowScales {
        let snap = match self {
            Self::None => {
                let groups = search.scales(format, columns, importance, group_size);
                return RowScales { groups, constrained: None };
            }
            Self::M1(snap) | Self::M2(snap) => snap,
            Self::M3 => Snap::Search,
        };
        let ladder = self.ladder().unwrap_or_default();
        let max_shift = ladder.max_shift(format.format).unwrap_or_default();
        let power_of_two = matches!(self, Self::M1(_));
        let found = if snap == Snap::Search {
            Search { format, ladder, max_shift, power_of_two }.run(columns, importance, group_size)
        } else {
            let scales = search.scales(format, columns, importance, group_size);
            let peaks: Vec<Column> = columns.chunks(group_size).map(largest).collect();
            snapped(snap, &scales, &peaks, max_shift, power_of_two)
        };
        let group = |steps: &[u8; ROWS]| GroupScale {
            scale: std::array::from_fn(|row| found.rows[row] * ladder.factor(steps[row])),
            ..GroupScale::NONE
        };
        RowScales { groups: found.steps.iter().map(group).collect(), constrained: Some(found) }
    }
}

/// Unconstrained `scales` snapped to powers of two, or to powers of two below the largest of the row. A group of zeros,
/// by its peak, takes any.
fn snapped(snap: Snap, scales: &[GroupScale], peaks: &[Column], max_shift: u8, power_of_two: bool) -> Steps {
    let prepared = |scale: f32| if power_of_two { snap.integer(scale.log2()).exp2() } else { scale };
    let mut rows = [0.0f32; ROWS];
    for (group, peak) in scales.iter().zip(peaks) {
        for row in 0..ROWS {
            if peak[row] > 0.0 {
                rows[row] = rows[row].max(prepared(group.scale[row]));
            }
        }
    }
    rows.iter_mut().filter(|scale| **scale == 0.0).for_each(|scale| *scale = 1.0);
    let step = |group: &GroupScale, row: usize| {
        let octaves = snap.integer((rows[row] / prepared(group.scale[row])).log2());
        octaves.clamp(0.0, f32::from(max_shift)) as u8
    };
    let steps = scales.iter().map(|group| std::array::from_fn(|row| step(group, row))).collect();
    Steps { rows, steps }
}

/// The joint search of a row's scale and its groups' steps.
struct Search {
    format: WeightFormat,
    ladder: Ladder,
    max_shift: u8,
    /// Whether the scale of the row must be a power of two, too.
    power_of_two: bool,
}

impl Search {
    #[inline(always)]
    fn run(&self, columns: &[Column], importance: &[f32], group_size: usize) -> Steps {
        let grid = self.format.format.grid();
        let groups = || columns.chunks(group_size).zip(importance.chunks(group_size));
        // 0 for a group of zeros, which then takes the last step: any will do.
        let widest: Vec<Column> =
            groups().map(|(group, _)| largest(group).map(|peak| peak / grid.max)).collect();
        let mut top = [0.0f32; ROWS];
        for widest in &widest {
            top.iter_mut().zip(widest).for_each(|(top, &scale)| *top = top.max(scale));
        }
        let top = top.map(|scale| if scale == 0.0 { 1.0 } else { scale });

        let mut best = Steps { rows: top, steps: vec![[0; ROWS]; widest.len()] };
        let mut least = [f32::INFINITY; ROWS];
        let mut steps = vec![[0; ROWS]; widest.len()];
        for candidate in 0..if self.power_of_two { 1 } else { ROW_SCALES } {
            let rows = top.map(|top| self.row_scale(top, candidate));
            let mut total = [0.0; ROWS];
            for (((group, importance), widest), steps) in groups().zip(&widest).zip(&mut steps) {
                let error = self.best_steps(group, importance, widest, &rows, steps);
                total.iter_mut().zip(&error).for_each(|(total, error)| *total += error);
            }
            for row in 0..ROWS {
                if total[row] < least[row] {
                    least[row] = total[row];
                    best.rows[row] = rows[row];
                    best.steps.iter_mut().zip(&steps).for_each(|(best, steps)| best[row] = steps[row]);
                }
            }
        }
        best
    }

    /// The scale of the row to try: the largest that its groups can have then lies between half of what the largest weight
    /// may get and that.
    fn row_scale(&self, top: f32, candidate: u8) -> f32 {
        let largest = RATIOS[1] * top;
        if self.power_of_two {
            return largest.log2().floor().exp2();
        }
        let below = 1.0 - f32::from(candidate) / f32::from(ROW_SCALES);
        largest * (-below).exp2() / self.ladder.octave()[0]
    }

    /// Finds the step of a group in every row, given the scale of the row; returns the error.
    #[inline(always)]
    fn best_steps(
        &self,
        group: &[Column],
        importance: &[f32],
        widest: &Column,
        rows: &Column,
        steps: &mut [u8; ROWS],
    ) -> Column {
        let octaves = (RATIOS[1] / RATIOS[0]).log2();
        let tried = ((self.ladder.octave().len() as f32 * octaves).ceil() as u8).min(self.max_shift + 1);
        let mut first = [0u8; ROWS];
        for step in 0..=self.max_shift - tried {
            let factor = self.ladder.factor(step);
            for row in 0..ROWS {
                first[row] += u8::from(rows[row] * factor > RATIOS[1] * widest[row]);
            }
        }
        let mut least = [f32::INFINITY; ROWS];
        for offset in 0..tried {
            let scale = std::array::from_fn(|row| rows[row] * self.ladder.factor(first[row] + offset));
            let found = GroupScale { scale, ..GroupScale::NONE };
            let error = squared_error(self.format.format.grid(), group, importance, &found);
            for row in 0..ROWS {
                let better = error[row] < least[row];
                least[row] = if better { error[row] } else { least[row] };
                steps[row] = if better { first[row] + offset } else { steps[row] };
            }
        }
        least
    }
}
