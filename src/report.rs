//! What a compilation did, layer by layer.

use serde::Serialize;
use zqc_passes::LayerRecord;

/// The account of one compilation.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The source model's path.
    pub model: String,
    /// The output's path.
    pub output: String,
    /// What the weights were calibrated on, in words.
    pub calibration: String,
    /// The quantized layers, in the order in which they were solved.
    pub layers: Vec<LayerReport>,
    /// The linear layers that stay in float, with the reason.
    pub kept: Vec<KeptLayer>,
    /// What a user should know.
    pub warnings: Vec<String>,
    /// Sums over the layers and the files.
    pub totals: Totals,
}

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
    /// Bits per weight as stored, scales included.
    pub bits_per_weight: f64,
    /// Size of the float weight in the source, in bytes.
    pub source_bytes: u64,
    /// `|W - Ŵ| / |W|` in the Frobenius norm.
    pub weight_error: f64,
    /// `|X(W - Ŵ)ᵀ| / |X Wᵀ|` on the calibration data; absent when the layer was rounded without data.
    pub output_error: Option<f64>,
    /// Time in the solver.
    pub seconds: f64,
}

/// A linear layer that stays in float.
#[derive(Debug, Clone, Serialize)]
pub struct KeptLayer {
    /// Path in the source model.
    pub layer: String,
    /// Why.
    pub reason: String,
}

/// Sums of a [`Report`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// Quantized weights.
    pub weights: usize,
    /// Their size in the source, in bytes.
    pub weight_bytes_before: u64,
    /// Their size in the output, codes and scales, in bytes.
    pub weight_bytes_after: u64,
    /// Mean bits per quantized weight, scales included.
    pub bits_per_weight: f64,
    /// Source file with its external data, in bytes.
    pub file_bytes_before: u64,
    /// Output file with its external data, in bytes.
    pub file_bytes_after: u64,
    /// Wall time of the compilation.
    pub seconds: f64,
    /// Largest resident memory of the process in bytes, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

impl From<LayerRecord> for LayerReport {
    fn from(record: LayerRecord) -> Self {
        let LayerRecord {
            layer,
            k,
            n,
            stage,
            source_bytes,
            bits_per_weight,
            weight_error,
            output_error,
            seconds,
        } = record;
        Self { layer, k, n, stage, source_bytes, bits_per_weight, weight_error, output_error, seconds }
    }
}
