//! Constraints between the scales of a row's groups, so that kernels can fold them into the weight's exponent.
//!
//! M1 and M2 are those of ZeroQuant-FP (arXiv 2307.09782), as we read it: scales that are powers of two, and scales whose
//! ratios are, snapped from unconstrained ones. By default the scale of the row and the steps of its groups are searched
//! jointly instead, before the first weight is rounded.

use zqc_formats::{Format, FormatError, Ladder, WeightFormat};

use crate::{
    ScaleSearch, SolveError,
    columns::{Column, ROWS},
    row_scales::{RowScales, Steps},
    scale_search::{GroupScale, largest},
    step_search::StepSearch,
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
    /// Every scale is a step of [`Ladder::M3`] times the scale of the row; searched.
    M3,
    /// The values of every group lie a step of [`Ladder::M8`] below those of the row; searched.
    M8,
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

impl ScaleConstraint {
    /// The searched constraint of the finest ladder of a format; none for a format without ladders of more than one step an octave.
    pub fn by_default(format: Format) -> Self {
        match format.ladders().next_back() {
            Some(Ladder::M8) => Self::M8,
            Some(Ladder::M3) => Self::M3,
            Some(Ladder::M2) | None => Self::None,
        }
    }

    /// The ladder that the scales lie on.
    pub fn ladder(self) -> Option<Ladder> {
        match self {
            Self::None => None,
            Self::M1(_) | Self::M2(_) => Some(Ladder::M2),
            Self::M3 => Some(Ladder::M3),
            Self::M8 => Some(Ladder::M8),
        }
    }

    /// How many scales of a row are worth a solve each. M1 knows but one. Of M2's, 8 instead of 1 lower the perplexity of
    /// stories260k by 2.3 % (groups of 16, no branch, no propagation); of M3's, 4 change it by less than they vary.
    pub(crate) fn choices(self) -> usize {
        match self {
            Self::M2(Snap::Search) => 8,
            _ => 1,
        }
    }

    /// Whether the format can have such scales.
    pub(crate) fn check(self, format: WeightFormat) -> Result<(), SolveError> {
        match self.ladder() {
            Some(ladder) if ladder.max_shift(format.format).is_none() => {
                Err(FormatError::Shifted { format: format.format, ladder }.into())
            }
            _ => Ok(()),
        }
    }

    /// The scales of each group of `group_size` of `columns`: where they are searched, at most `choices` of them that
    /// differ in the scale of the row, the best first; else one. Squared errors of column `j` count by `importance[j]`.
    #[inline(always)]
    pub(crate) fn scales(
        self,
        search: ScaleSearch,
        format: WeightFormat,
        columns: &[Column],
        importance: &[f32],
        group_size: usize,
        choices: usize,
    ) -> Vec<RowScales> {
        let snap = match self {
            Self::None => {
                let groups = search.scales(format, columns, importance, group_size);
                return vec![RowScales::free(groups)];
            }
            Self::M1(snap) | Self::M2(snap) => snap,
            Self::M3 | Self::M8 => Snap::Search,
        };
        let ladder = self.ladder().unwrap_or_default();
        let max_shift = ladder.max_shift(format.format).unwrap_or_default();
        let power_of_two = matches!(self, Self::M1(_));
        let found = if snap == Snap::Search {
            let search = StepSearch { format, ladder, max_shift, power_of_two };
            search.run(columns, importance, group_size, choices)
        } else {
            let scales = search.scales(format, columns, importance, group_size);
            let peaks: Vec<Column> = columns.chunks(group_size).map(largest).collect();
            vec![snapped(snap, &scales, &peaks, max_shift, power_of_two)]
        };
        found.into_iter().map(|steps| RowScales::constrained(steps, ladder)).collect()
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
