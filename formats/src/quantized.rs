//! A quantized weight matrix.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::{Format, FormatError, Ladder, Scales, check_length};

/// A weight `[N, K]` as codes in groups along `K`, with a scale and perhaps a zero point for each:
/// `ŵ[n][k] = (decode(codes[n][k]) - zero_points[n][g]) * scale[n][g]`, where `g = k / group_size`; see [`Ladder::apply`] for steps
/// of a ladder.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct QuantizedMatrix {
    /// Format of the codes.
    pub format: Format,
    /// Output features, `N`.
    pub rows: usize,
    /// Input features, `K`.
    pub cols: usize,
    /// Input features that share a scale; the last group of a row may have fewer.
    pub group_size: usize,
    /// Codes `[N, K]`, one a byte.
    pub codes: Vec<u8>,
    /// The scale of every group.
    pub scales: Scales,
    /// Decoded values that stand for 0, `[N, groups]`; integer formats only.
    pub zero_points: Option<Vec<i8>>,
}

impl QuantizedMatrix {
    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.cols.div_ceil(self.group_size)
    }

    /// Checks that the parts have the lengths that the shape needs, and that the format can have them.
    ///
    /// # Errors
    ///
    /// [`FormatError::Empty`], [`FormatError::GroupSize`], [`FormatError::Length`], [`FormatError::Shifted`],
    /// [`FormatError::Shift`] or [`FormatError::ZeroPoints`].
    pub fn check(&self) -> Result<(), FormatError> {
        let &Self { format, rows, cols, .. } = self;
        if rows == 0 || cols == 0 {
            return Err(FormatError::Empty { rows, cols });
        }
        if self.group_size == 0 {
            return Err(FormatError::GroupSize);
        }
        let groups = rows.saturating_mul(self.groups());
        check_length("the codes", self.codes.len(), rows.saturating_mul(cols))?;
        match &self.scales {
            Scales::Grouped(scales) => check_length("the scales", scales.len(), groups)?,
            Scales::Shifted { ladder, rows: scales, shifts } => {
                let max = ladder.max_shift(format).ok_or(FormatError::Shifted { format, ladder: *ladder })?;
                check_length("the row scales", scales.len(), rows)?;
                check_length("the shifts", shifts.len(), groups)?;
                if let Some(&shift) = shifts.iter().find(|&&shift| shift > max) {
                    return Err(FormatError::Shift { shift, format, max });
                }
            }
        }
        match &self.zero_points {
            Some(_) if !format.is_integer() => Err(FormatError::ZeroPoints(format)),
            Some(zero_points) => check_length("the zero points", zero_points.len(), groups),
            None => Ok(()),
        }
    }

    /// Puts the rows of `lower`, coded in the same way, below these.
    pub fn append(&mut self, lower: Self) {
        self.rows += lower.rows;
        self.codes.extend(lower.codes);
        match (&mut self.scales, lower.scales) {
            (Scales::Grouped(upper), Scales::Grouped(lower)) => upper.extend(lower),
            (Scales::Shifted { rows, shifts, .. }, Scales::Shifted { rows: lower, shifts: steps, .. }) => {
                rows.extend(lower);
                shifts.extend(steps);
            }
            _ => {}
        }
        if let (Some(upper), Some(lower)) = (&mut self.zero_points, lower.zero_points) {
            upper.extend(lower);
        }
    }

    /// The weights that the codes stand for, `[N, K]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let codebook = self.format.codebook();
        // Where a ladder has factors, they are the scale's: one rounding, as files of older versions of this program have it.
        let (scales, steps) = match &self.scales {
            Scales::Shifted { ladder: Ladder::M8, rows, shifts } => {
                (Cow::Borrowed(&rows[..]), Some(&shifts[..]))
            }
            scales => (scales.of_groups(), None),
        };
        let zero = |group: usize| self.zero_points.as_ref().map_or(0.0, |zeros| f32::from(zeros[group]));
        let mut weight = vec![0.0; self.codes.len()];
        weight.par_chunks_mut(self.cols).zip(self.codes.par_chunks(self.cols)).enumerate().for_each(
            |(row, (weight, codes))| {
                let groups = weight.chunks_mut(self.group_size).zip(codes.chunks(self.group_size));
                for (group, (weight, codes)) in (row * self.groups()..).zip(groups) {
                    let codes = weight.iter_mut().zip(codes.iter().map(|&code| codebook[usize::from(code)]));
                    match steps {
                        Some(steps) => {
                            codes.for_each(|(to, value)| {
                                *to = Ladder::M8.apply(value, steps[group]) * scales[row]
                            });
                        }
                        None => {
                            let (scale, zero) = (scales[group], zero(group));
                            codes.for_each(|(to, value)| *to = (value - zero) * scale);
                        }
                    }
                }
            },
        );
        weight
    }

    /// Bits stored per weight: the code and its share of its group's scale, shift and zero point and of its row's scale.
    pub fn bits_per_weight(&self) -> f64 {
        let zero_points = self.zero_points.as_ref().map_or(0, Vec::len);
        f64::from(self.format.bits())
            + (self.scales.bits() + 8 * zero_points) as f64 / self.codes.len() as f64
    }

    /// `‖W - Ŵ‖ / ‖W‖` in the Frobenius norm, for the original `weight` `[N, K]`; 0 when both are zero.
    ///
    /// # Panics
    ///
    /// If `weight` has another number of values.
    pub fn relative_error(&self, weight: &[f32]) -> f64 {
        relative_error(&self.dequantize(), weight)
    }
}

/// `|W - Ŵ| / |W|` in the Frobenius norm; 0 when both are zero.
///
/// # Panics
///
/// If the weights differ in length.
pub fn relative_error(approximation: &[f32], weight: &[f32]) -> f64 {
    assert_eq!(approximation.len(), weight.len(), "weights of different shapes");
    let square = |value: f32| f64::from(value) * f64::from(value);
    let energy: f64 = weight.iter().map(|&w| square(w)).sum();
    let error: f64 = weight.iter().zip(approximation).map(|(&w, q)| square(w - q)).sum();
    ratio(error, energy).sqrt()
}

/// `part / whole`, 0 when both are zero.
fn ratio(part: f64, whole: f64) -> f64 {
    if part == 0.0 { 0.0 } else { part / whole }
}
