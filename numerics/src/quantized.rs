//! A quantized weight matrix.

use rayon::prelude::*;

use crate::{Format, SolveError};

/// A weight `[N, K]` as codes with one scale a group: `ŵ[n][k] = decode(codes[n][k]) * scales[n][k / group_size]`.
#[derive(Clone, Debug, PartialEq)]
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
    /// Scales `[N, groups]`.
    pub scales: Vec<f32>,
}

impl QuantizedMatrix {
    /// Groups, and so scales, of a row.
    pub fn groups(&self) -> usize {
        self.cols.div_ceil(self.group_size)
    }

    /// The weights that the codes stand for, `[N, K]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let codebook = self.format.codebook();
        let mut weight = vec![0.0; self.codes.len()];
        weight
            .par_chunks_mut(self.cols)
            .zip(self.codes.par_chunks(self.cols))
            .zip(self.scales.par_chunks(self.groups()))
            .for_each(|((weight, codes), scales)| {
                let groups = weight.chunks_mut(self.group_size).zip(codes.chunks(self.group_size));
                for ((weight, codes), scale) in groups.zip(scales) {
                    for (value, &code) in weight.iter_mut().zip(codes) {
                        *value = codebook[usize::from(code)] * scale;
                    }
                }
            });
        weight
    }

    /// Bits stored per weight: the code and its share of a group's `f32` scale.
    pub fn bits_per_weight(&self) -> f64 {
        f64::from(self.format.bits()) + 32.0 * self.scales.len() as f64 / self.codes.len() as f64
    }

    /// `‖W - Ŵ‖ / ‖W‖` in the Frobenius norm, for the original `weight` `[N, K]`; 0 when both are zero.
    ///
    /// # Panics
    ///
    /// If `weight` has another number of values.
    pub fn relative_error(&self, weight: &[f32]) -> f64 {
        assert_eq!(weight.len(), self.codes.len(), "weight is not [{}, {}]", self.rows, self.cols);
        let square = |value: f32| f64::from(value) * f64::from(value);
        let energy: f64 = weight.iter().map(|&w| square(w)).sum();
        let error: f64 = weight.iter().zip(self.dequantize()).map(|(&w, q)| square(w - q)).sum();
        ratio(error, energy).sqrt()
    }
}

/// `part / whole`, 0 when both are zero.
pub(crate) fn ratio(part: f64, whole: f64) -> f64 {
    if part == 0.0 { 0.0 } else { part / whole }
}

/// Checks that `weight` is a finite `[rows, cols]` matrix with at least one element.
pub(crate) fn check_weight(weight: &[f32], rows: usize, cols: usize) -> Result<(), SolveError> {
    if rows == 0 || cols == 0 {
        return Err(SolveError::Empty { rows, cols });
    }
    let expected = rows.saturating_mul(cols);
    if weight.len() != expected {
        return Err(SolveError::Length { what: "the weight matrix", expected, actual: weight.len() });
    }
    match weight.par_iter().position_first(|value| !value.is_finite()) {
        Some(at) => Err(SolveError::NonFiniteWeight { row: at / cols, col: at % cols, value: weight[at] }),
        None => Ok(()),
    }
}

/// The group size to use along `cols` input features: 0, or more than there are, means the whole row.
pub(crate) fn resolve_group_size(group_size: usize, cols: usize) -> usize {
    if group_size == 0 { cols } else { group_size.min(cols) }
}
