//! What a report says once all layers are solved: sums over them, and warnings.

use std::collections::HashSet;

use super::{KeptLayer, LayerReport, Report, Totals, calibration};

impl Report {
    /// Notes that a layer is rounded to nearest.
    pub(crate) fn note_uncalibrated(&mut self, layer: &str, reason: &str) {
        self.uncalibrated.push(KeptLayer { layer: layer.to_string(), reason: reason.to_string() });
    }

    /// Adds up the layers, and warns of what a user should know of them.
    pub(crate) fn add_up(&mut self) {
        let mut reasons: Vec<&str> = self.uncalibrated.iter().map(|layer| layer.reason.as_str()).collect();
        reasons.dedup();
        for reason in reasons {
            let layers = self.uncalibrated.iter().filter(|layer| layer.reason == reason);
            let layers: Vec<&str> = layers.map(|layer| layer.layer.as_str()).collect();
            let names = layers.join(", ");
            self.warnings.push(format!("without calibration data, rounded to nearest: {names} ({reason})"));
        }
        if let [first, ..] = &self.recoded[..] {
            let names: Vec<&str> = self.recoded.iter().map(|layer| layer.layer.as_str()).collect();
            let (names, reason) = (names.join(", "), &first.reason);
            self.warnings.push(format!("another format of weights: {names} (of the first: {reason})"));
        }
        self.warnings.extend(calibration::warnings(&self.layers));
        let quantized: HashSet<&str> = self.layers.iter().map(|layer| layer.layer.as_str()).collect();
        self.requantized.retain(|layer| quantized.contains(layer.layer.as_str()));
        for requantized in &self.requantized {
            let layers = self.layers.iter_mut().filter(|layer| layer.layer == requantized.layer);
            layers.for_each(|layer| layer.source_bytes = requantized.bytes);
        }
        if let [first, ..] = &self.requantized[..] {
            self.warnings.push(format!(
                "{} layers are quantized for the second time, {} from {}: the error of the first quantization is not recoverable",
                self.requantized.len(),
                first.layer,
                first.from
            ));
        }
        let Totals { weights, weight_bytes_before, weight_bytes_after, bits_per_weight, .. } =
            &mut self.totals;
        *weights = self.layers.iter().map(|layer| layer.k * layer.n).sum();
        let bits = |layer: &LayerReport| (layer.k * layer.n) as f64 * layer.bits_per_weight;
        let total: f64 = self.layers.iter().map(bits).sum();
        *weight_bytes_before = self.layers.iter().map(|layer| layer.source_bytes).sum();
        *weight_bytes_after = (total / 8.0).ceil() as u64;
        *bits_per_weight = if *weights == 0 { 0.0 } else { total / *weights as f64 };
    }
}
