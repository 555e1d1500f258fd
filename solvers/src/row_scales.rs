//! The scales of rows that are solved together.

use zqc_formats::Ladder;

use crate::{
    columns::{Column, ROWS},
    scale_search::GroupScale,
};

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

impl RowScales {
    /// Scales that are not constrained.
    pub fn free(groups: Vec<GroupScale>) -> Self {
        Self { groups, constrained: None }
    }

    /// Scales that are steps of `ladder`.
    #[inline(always)]
    pub fn constrained(found: Steps, ladder: Ladder) -> Self {
        let group = |steps: &[u8; ROWS]| GroupScale::on_ladder(ladder, &found.rows, steps);
        Self { groups: found.steps.iter().map(group).collect(), constrained: Some(found) }
    }

    /// Takes over a row of `other`.
    pub fn take_row(&mut self, other: &Self, row: usize) {
        for (ours, theirs) in self.groups.iter_mut().zip(&other.groups) {
            ours.scale[row] = theirs.scale[row];
            ours.zero[row] = theirs.zero[row];
            ours.step[row] = theirs.step[row];
        }
        if let (Some(ours), Some(theirs)) = (&mut self.constrained, &other.constrained) {
            ours.rows[row] = theirs.rows[row];
            ours.steps.iter_mut().zip(&theirs.steps).for_each(|(ours, theirs)| ours[row] = theirs[row]);
        }
    }
}
