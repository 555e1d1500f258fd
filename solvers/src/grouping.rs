//! What every solver needs to know about the codes and scales it makes, and how it hands them over.

use rayon::prelude::*;

use zqc_formats::{Format, QuantizedMatrix, Scales, WeightFormat};

use crate::{
    ScaleConstraint, ScaleSearch, SolveError,
    columns::{Column, ROWS, to_rows},
    row_scales::RowScales,
    weight::resolve_group_size,
};

/// How weights become codes with scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grouping {
    /// How weights are coded.
    pub format: WeightFormat,
    /// Input features that share a scale; 0 for the whole row.
    pub group_size: usize,
    /// How the scale of a group is found.
    pub scale_search: ScaleSearch,
    /// How the scales of a row are bound to each other.
    pub constraint: ScaleConstraint,
}

impl Default for Grouping {
    /// E2M1 in groups of 64, scales weighted by the Hessian under M3.
    fn default() -> Self {
        Self {
            format: Format::E2M1.into(),
            group_size: 64,
            scale_search: ScaleSearch::default(),
            constraint: ScaleConstraint::default(),
        }
    }
}

impl Grouping {
    /// Checks that the format can have such scales and zero points.
    ///
    /// # Errors
    /// [`FormatError::Shifted`](zqc_formats::FormatError::Shifted) or
    /// [`FormatError::ZeroPoints`](zqc_formats::FormatError::ZeroPoints) when it cannot.
    pub fn check(&self) -> Result<(), SolveError> {
        self.format.check()?;
        self.constraint.check(self.format)
    }

    /// The scales of [`ROWS`] rows of `columns`: at least one choice and at most `choices`, the best first. Squared errors
    /// of column `j` count by `importance[j]`.
    #[inline(always)]
    pub(crate) fn scales(&self, columns: &[Column], importance: &[f32], choices: usize) -> Vec<RowScales> {
        let group_size = resolve_group_size(self.group_size, columns.len());
        self.constraint.scales(self.scale_search, self.format, columns, importance, group_size, choices)
    }

    /// Quantizes a `[rows, cols]` weight by `solve`, which gets [`ROWS`] rows at a time, fewer at the end. It returns the
    /// weights in units of their scales, from the zero point, rounded: `[K][ROWS]`; and the scales.
    pub(crate) fn quantize(
        &self,
        weight: &[f32],
        rows: usize,
        cols: usize,
        solve: impl Fn(&[f32]) -> Result<(Vec<Column>, RowScales), SolveError> + Sync,
    ) -> Result<QuantizedMatrix, SolveError> {
        let WeightFormat { format, asymmetric } = self.format;
        let group_size = resolve_group_size(self.group_size, cols);
        let groups = cols.div_ceil(group_size);
        let mut codes = vec![0; rows * cols];
        let mut scales = vec![0.0; rows * groups];
        let mut zero_points = vec![0; rows * groups];
        let mut row_scales = vec![0.0; rows];
        let mut shifts = vec![0; rows * groups];
        codes
            .par_chunks_mut(ROWS * cols)
            .zip(scales.par_chunks_mut(ROWS * groups))
            .zip(zero_points.par_chunks_mut(ROWS * groups))
            .zip(row_scales.par_chunks_mut(ROWS))
            .zip(shifts.par_chunks_mut(ROWS * groups))
            .zip(weight.par_chunks(ROWS * cols))
            .try_for_each(|(((((codes, scales), zero_points), row_scales), shifts), weight)| {
                let (values, found) = solve(weight)?;
                to_rows(codes, &values, |column, row| format.encode(column[row]));
                match &found.constrained {
                    None => {
                        to_rows(scales, &found.groups, |group, row| group.scale[row]);
                        to_rows(zero_points, &found.groups, |group, row| group.zero[row] as i8);
                    }
                    Some(constrained) => {
                        row_scales.copy_from_slice(&constrained.rows[..row_scales.len()]);
                        to_rows(shifts, &constrained.steps, |group, row| group[row]);
                    }
                }
                Ok::<_, SolveError>(())
            })?;
        let scales = match self.constraint.ladder() {
            None => Scales::Grouped(scales),
            Some(ladder) => Scales::Shifted { ladder, rows: row_scales, shifts },
        };
        let zero_points = asymmetric.then_some(zero_points);
        Ok(QuantizedMatrix { format, rows, cols, group_size, codes, scales, zero_points })
    }
}
