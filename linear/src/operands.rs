//! What a layer reads and writes in a call.

use std::marker::PhantomData;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use zqc_formats::ActivationFormat;

use crate::error::{Expected, ShapeError};
use crate::tiling::PANEL;

/// Activations `[M, K]`, one token a row.
#[derive(Clone, Copy, Debug)]
pub enum Tokens<'a> {
    /// Codes with a scale for every token.
    Quantized {
        /// Format of the codes.
        format: ActivationFormat,
        /// Codes `[M, K]`.
        codes: &'a [u8],
        /// Scales `[M]`.
        scales: &'a [f32],
        /// Zero points `[M]` of integers, empty for FP8.
        zero_points: &'a [u8],
    },
    /// Floats.
    F32(&'a [f32]),
    /// Floats of 16 bits.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

impl Tokens<'_> {
    /// `M`, the number of rows of `k`.
    ///
    /// # Errors
    /// When a slice holds no whole number of rows, or not one scale or zero point a row.
    pub(crate) fn rows(&self, k: usize) -> Result<usize, ShapeError> {
        let elements = match self {
            Self::Quantized { codes, .. } => codes.len(),
            Self::F32(x) => x.len(),
            Self::F16(x) => x.len(),
            Self::Bf16(x) => x.len(),
        };
        if !elements.is_multiple_of(k) {
            return Err(ShapeError {
                what: "activations",
                expected: Expected::MultipleOf(k),
                actual: elements,
            });
        }
        let rows = elements / k;
        if let Self::Quantized { format, scales, zero_points, .. } = self {
            let zeros = if format.float().is_some() { 0 } else { rows };
            ShapeError::check("scales of the tokens", scales.len(), rows)?;
            ShapeError::check("zero points of the tokens", zero_points.len(), zeros)?;
        }
        Ok(rows)
    }

    /// The scale of a token, 1 for floats.
    pub(crate) fn scale(&self, token: usize) -> f32 {
        match self {
            Self::Quantized { scales, .. } => scales[token],
            _ => 1.0,
        }
    }
}

/// Outputs `[M, N]`.
#[derive(Debug)]
pub enum Output<'a> {
    /// Floats.
    F32(&'a mut [f32]),
    /// Floats of 16 bits.
    F16(&'a mut [f16]),
    /// bfloat16.
    Bf16(&'a mut [bf16]),
}

impl Output<'_> {
    /// Elements.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(y) => y.len(),
            Self::F16(y) => y.len(),
            Self::Bf16(y) => y.len(),
        }
    }
}

/// Outputs that several threads write, each of them columns of its own.
pub(crate) struct Columns<'a> {
    outputs: Outputs,
    n: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

enum Outputs {
    F32(*mut f32),
    F16(*mut f16),
    Bf16(*mut bf16),
}

// SAFETY: the outputs are borrowed mutably for as long as this lives, and only `Columns::write` writes them.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    pub(crate) fn new(output: &'a mut Output<'_>, n: usize) -> Self {
        let outputs = match output {
            Output::F32(y) => Outputs::F32(y.as_mut_ptr()),
            Output::F16(y) => Outputs::F16(y.as_mut_ptr()),
            Output::Bf16(y) => Outputs::Bf16(y.as_mut_ptr()),
        };
        Self { outputs, n, borrow: PhantomData }
    }

    /// Writes the columns of a panel in row `row`. Every NaN becomes the same.
    ///
    /// # Safety
    /// The row and the panel exist, and no other thread writes them.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, row: usize, panel: usize, y: [f32; PANEL]) {
        let y = y.map(|y| if y.is_nan() { f32::NAN } else { y });
        let first = panel * PANEL;
        let at = row * self.n + first;
        let values = &y[..PANEL.min(self.n - first)];
        // SAFETY: the caller's condition.
        unsafe {
            match self.outputs {
                // A whole panel without a call of `memcpy`.
                Outputs::F32(to) if values.len() == PANEL => {
                    to.add(at).cast::<[f32; PANEL]>().write_unaligned(y);
                }
                Outputs::F32(to) => to.add(at).copy_from_nonoverlapping(values.as_ptr(), values.len()),
                Outputs::F16(to) => {
                    std::slice::from_raw_parts_mut(to.add(at), values.len()).convert_from_f32_slice(values);
                }
                Outputs::Bf16(to) => {
                    std::slice::from_raw_parts_mut(to.add(at), values.len()).convert_from_f32_slice(values);
                }
            }
        }
    }
}
