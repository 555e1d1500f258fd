//! The report takes down what the passes tell.

use std::time::Instant;

use zqc_passes::{ActivationRecord, LayerRecord, Observer, TuneRecord};

use super::Events;
use crate::report::{
    ActivationReport, KeptLayer, LayerReport, Report, RequantizedLayer, StageReport, TuneReport,
};

/// Writes down what the passes tell, and tells it on.
pub(super) struct Recorder<'a> {
    report: &'a mut Report,
    events: &'a mut dyn Events,
    /// When the stage under way began.
    stage_since: Option<Instant>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(report: &'a mut Report, events: &'a mut dyn Events) -> Self {
        Self { report, events, stage_since: None }
    }

    /// Writes down how long the stage under way took; to be called once the pass has run, too.
    pub(super) fn finish_stage(&mut self) {
        if let (Some(since), Some(stage)) = (self.stage_since.take(), self.report.stages.last_mut()) {
            stage.seconds = since.elapsed().as_secs_f64();
        }
    }
}

impl Observer for Recorder<'_> {
    fn layer_kept(&mut self, layer: &str, reason: &str) {
        let kept = KeptLayer { layer: layer.to_string(), reason: reason.to_string() };
        if !self.report.kept.contains(&kept) {
            self.report.kept.push(kept);
            self.events.layer_kept(layer, reason);
        }
    }

    fn layer_uncalibrated(&mut self, layer: &str, reason: &str) {
        self.report.note_uncalibrated(layer, reason);
    }

    fn layer_recoded(&mut self, layer: &str, reason: &str) {
        self.report.recoded.push(KeptLayer { layer: layer.to_string(), reason: reason.to_string() });
    }

    fn layer_requantized(&mut self, layer: &str, from: &str, bytes: u64) {
        let requantized = RequantizedLayer { layer: layer.to_string(), from: from.to_string(), bytes };
        self.report.requantized.push(requantized);
        self.events.layer_requantized(layer, from, bytes);
    }

    fn unmatched(&mut self, option: &str, regex: &str) {
        self.report.warnings.push(format!("{option} {regex:?} matches no linear layer"));
        self.events.unmatched(option, regex);
    }

    fn stage_started(&mut self, index: usize, count: usize, layers: usize) {
        self.finish_stage();
        self.report.stages.push(StageReport { layers, seconds: 0.0 });
        self.stage_since = Some(Instant::now());
        self.events.stage_started(index, count, layers);
    }

    fn activations_seen(&mut self, record: ActivationRecord) {
        self.report.activations.push(ActivationReport::from(record.clone()));
        self.events.activations_seen(record);
    }

    fn gradient_stopped(&mut self, node: &str, reason: &str) {
        let warning = format!("the gradient of the end loss does not pass {node}: {reason}");
        if !self.report.warnings.contains(&warning) {
            self.report.warnings.push(warning);
        }
    }

    fn tuned(&mut self, step: usize, steps: usize, kl: f64) {
        self.events.tuned(step, steps, kl);
    }

    fn tuning_finished(&mut self, record: TuneRecord) {
        self.report.tuning = Some(TuneReport::from(record.clone()));
        self.events.tuning_finished(record);
    }

    fn layer_solved(&mut self, record: LayerRecord) {
        self.report.layers.push(LayerReport::from(record.clone()));
        self.events.layer_solved(record);
    }

    fn stopped(&self) -> bool {
        self.events.stopped()
    }
}
