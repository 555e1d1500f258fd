//! The scales of a quantized matrix.

use std::borrow::Cow;

use crate::Ladder;

/// The scales of the groups of a quantized matrix of `N` rows.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Scales {
    /// A scale for every group, `[N, groups]`.
    Grouped(Vec<f32>),
    /// A step of the ladder below the scale of the row for every group: a value stands for `ladder.apply(value, shifts[n][g]) * rows[n]`. A shift is
    /// at most [`Ladder::max_shift`], so that codes can be turned into E4M3 without error and only the scale of the row is
    /// left to multiply by.
    Shifted {
        /// What a shift stands for.
        ladder: Ladder,
        /// A scale for every row, `[N]`.
        rows: Vec<f32>,
        /// A shift for every group, `[N, groups]`.
        shifts: Vec<u8>,
    },
}

impl Scales {
    /// The scale of every group, `[N, groups]`; under [`Ladder::M8`] by the nominal [`Ladder::factor`].
    pub fn of_groups(&self) -> Cow<'_, [f32]> {
        match self {
            Self::Grouped(scales) => Cow::Borrowed(scales),
            Self::Shifted { ladder, rows, shifts } => {
                let groups = shifts.len() / rows.len().max(1);
                let scale = |(at, &shift): (usize, &u8)| rows[at / groups] * ladder.factor(shift);
                Cow::Owned(shifts.iter().enumerate().map(scale).collect())
            }
        }
    }

    /// What the shifts are steps of, when there are any.
    pub fn ladder(&self) -> Option<Ladder> {
        match self {
            Self::Grouped(_) => None,
            Self::Shifted { ladder, .. } => Some(*ladder),
        }
    }

    /// Bits that are stored: 32 for a scale, 4 for a shift.
    pub fn bits(&self) -> usize {
        match self {
            Self::Grouped(scales) => 32 * scales.len(),
            Self::Shifted { rows, shifts, .. } => 32 * rows.len() + 4 * shifts.len(),
        }
    }
}
