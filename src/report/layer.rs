//! What became of a linear layer.

use std::collections::BTreeMap;

use serde::Serialize;
use zqc_formats::Ladder;
use zqc_passes::{CalibrationRecord, Coding, LayerRecord};

/// One quantized layer.
#[derive(Debug, Clone, Serialize)]
pub struct LayerReport {
    /// Path in the source model.
    pub layer: String,
    /// Input features.
    pub k: usize,
    /// Output features.
    pub n: usize,
    /// Stage in which it was solved.
    pub stage: usize,
    /// Number format of the codes: `e2m1`, `int4 with zero points`.
    pub format: String,
    /// Weights along K that share a scale.
    pub group_size: usize,
    /// Rank of the low-rank branch; 0 without one.
    pub rank: usize,
    /// Bits per weight as stored, everything counted.
    pub bits_per_weight: f64,
    /// Size of the weight in the source, in bytes.
    pub source_bytes: u64,
    /// `|W - Ŵ| / |W|` in the Frobenius norm, against the weight `W` of the source.
    pub weight_error: f64,
    /// The same without the low-rank branch; absent when there is none.
    pub weight_error_before: Option<f64>,
    /// `|X(T - Ŵ)ᵀ| / |X Tᵀ|` on the calibration data, for the weight `T` that the layer was solved for: `W`, moved by what it
    /// makes up for of the errors of earlier layers. Absent when the layer was rounded without data.
    pub output_error: Option<f64>,
    /// The same without the low-rank branch; absent when there is none.
    pub output_error_before: Option<f64>,
    /// The tokens that it was solved on; absent without calibration data.
    pub calibration: Option<CalibrationRecord>,
    /// The weights as the number format sees them.
    pub weights: WeightHistogram,
    /// The shifts that scales are constrained to, from 0 to the largest; empty when scales are not constrained.
    pub shifts: Vec<Shift>,
    /// Time in the solver.
    pub seconds: f64,
}

/// Weights in units of their group's scale, from its zero point, counted in bins of equal width.
#[derive(Debug, Clone, Serialize)]
pub struct WeightHistogram {
    /// The values of the number format; empty for a format of more than 4 bits.
    pub grid: Vec<f32>,
    /// Where the last bin ends; the first begins at its negative.
    pub limit: f32,
    /// Weights in each bin.
    pub counts: Vec<u64>,
    /// Weights further out.
    pub beyond: u64,
}

/// A step that the scale of a group may stand below that of its row.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Shift {
    /// The scale of the group divided by that of the row.
    pub factor: f32,
    /// How many groups have this shift.
    pub groups: u64,
}

/// A linear layer whose weight was quantized before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequantizedLayer {
    /// Path in the source model.
    pub layer: String,
    /// The type of its codes: `i8`, `u4`.
    pub from: String,
    /// Size of codes, scales and zero points in the source, in bytes.
    pub bytes: u64,
}

/// A linear layer with which something is not as usual: it stays in float, or is quantized without data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptLayer {
    /// Path in the source model.
    pub layer: String,
    /// Why.
    pub reason: String,
}

impl KeptLayer {
    /// The layers by the reason.
    pub(crate) fn by_reason(kept: &[Self]) -> BTreeMap<&str, Vec<&str>> {
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        kept.iter().for_each(|kept| reasons.entry(&kept.reason).or_default().push(&kept.layer));
        reasons
    }
}

impl From<LayerRecord> for LayerReport {
    fn from(record: LayerRecord) -> Self {
        let LayerRecord {
            layer,
            k,
            n,
            stage,
            source_bytes,
            coding,
            bits_per_weight,
            weight_error,
            output_error,
            calibration,
            seconds,
        } = record;
        let Coding { format, zero_points, group_size, weights, ladder, shifts, branch } = coding;
        let shift =
            |(ladder, (shift, groups)): (Ladder, (u8, u64))| Shift { factor: ladder.factor(shift), groups };
        Self {
            layer,
            k,
            n,
            stage,
            format: format!("{format}{}", if zero_points { " with zero points" } else { "" }),
            group_size,
            rank: branch.map_or(0, |branch| branch.rank),
            bits_per_weight,
            source_bytes,
            weight_error,
            weight_error_before: branch.map(|branch| branch.weight_error_before),
            output_error,
            output_error_before: branch.and_then(|branch| branch.output_error_before),
            calibration,
            weights: weights.into(),
            shifts: ladder.into_iter().cycle().zip((0..).zip(shifts)).map(shift).collect(),
            seconds,
        }
    }
}

impl From<zqc_passes::WeightHistogram> for WeightHistogram {
    fn from(histogram: zqc_passes::WeightHistogram) -> Self {
        let limit = histogram.limit();
        let zqc_passes::WeightHistogram { format, counts, beyond } = histogram;
        let grid = if format.bits() == 4 { format.codebook() } else { Vec::new() };
        Self { grid, limit, counts, beyond }
    }
}
