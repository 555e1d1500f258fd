//! What a compilation did: the data, and the page that shows it.

mod activation;
mod calibration;
mod html;
mod kinds;
mod layer;
mod library;
mod plots;
mod sums;
mod svg;
mod tuning;

use std::collections::BTreeMap;

use indicatif::DecimalBytes;
use serde::Serialize;
use zqc_runtime::UsedLibrary;

use crate::evaluate::HeldOutReport;

pub use activation::{ActivationReport, Octave, Quantile, RoundingError};
pub use layer::{KeptLayer, LayerReport, RequantizedLayer, Shift, WeightHistogram};
pub use library::LibraryReport;
pub use tuning::TuneReport;

/// The account of one compilation.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Version of zqc.
    pub version: String,
    /// The source model's path.
    pub model: String,
    /// The output's path.
    pub output: String,
    /// Every option that has a value.
    pub options: Vec<OptionReport>,
    /// What the weights were calibrated on, in words.
    pub calibration: String,
    /// The quantized model beside the float one, on calibration tokens that were held out; `None` where there are none.
    pub held_out: Option<HeldOutReport>,
    /// What `--tune` did; `None` without it.
    pub tuning: Option<TuneReport>,
    /// The quantized layers, in the order in which they were solved.
    pub layers: Vec<LayerReport>,
    /// The activations that these layers read, in the order of the stages; none without calibration data.
    pub activations: Vec<ActivationReport>,
    /// The stages of the calibration, in order.
    pub stages: Vec<StageReport>,
    /// The linear layers that stay in float, with the reason.
    pub kept: Vec<KeptLayer>,
    /// The quantized layers that no calibration data came to, with the reason.
    pub uncalibrated: Vec<KeptLayer>,
    /// The quantized layers whose weights have another format than the one that was asked for, with the reason.
    pub recoded: Vec<KeptLayer>,
    /// The linear layers whose weights were quantized before.
    pub requantized: Vec<RequantizedLayer>,
    /// What a user should know.
    pub warnings: Vec<String>,
    /// How many stages an earlier run, which was stopped, had solved.
    pub resumed_stages: usize,
    /// The files that went along with the model of a folder.
    pub companions: Vec<String>,
    /// The ONNX Runtime that ran what the embedded back end cannot; `None` where it was not needed.
    pub onnxruntime: Option<LibraryReport>,
    /// How what was written was checked, in words; empty when it was not.
    pub verification: String,
    /// Sums over the layers and the files.
    pub totals: Totals,
}

/// An option of the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OptionReport {
    /// As it is written on the command line: `--group-size`.
    pub name: String,
    /// Its value, or its values with spaces between them.
    pub value: String,
}

/// One stage of the calibration: what lies between two sets of layers.
#[derive(Debug, Clone, Serialize)]
pub struct StageReport {
    /// Layers solved in it.
    pub layers: usize,
    /// Wall time: running the stage on the calibration data, and the solver.
    pub seconds: f64,
}

/// Sums of a [`Report`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// Quantized weights.
    pub weights: usize,
    /// Their size in the source, in bytes.
    pub weight_bytes_before: u64,
    /// Their size in the output, everything counted, in bytes.
    pub weight_bytes_after: u64,
    /// Mean bits per quantized weight, everything counted.
    pub bits_per_weight: f64,
    /// Source file with its external data, in bytes.
    pub file_bytes_before: u64,
    /// Output file with its external data, in bytes.
    pub file_bytes_after: u64,
    /// Wall time of the compilation.
    pub seconds: f64,
    /// Largest resident memory of the process in bytes, where the system tells. Pages of mapped files count, the source's among
    /// them, which the system takes back when it needs them.
    pub peak_memory_bytes: Option<u64>,
    /// Largest private memory of the process in bytes, without mapped files, where the system tells.
    pub peak_private_bytes: Option<u64>,
}

impl Totals {
    /// The peak memory in words: private, and with mapped files.
    pub fn peak_memory(&self) -> Option<String> {
        let resident = DecimalBytes(self.peak_memory_bytes?);
        Some(match self.peak_private_bytes {
            Some(private) => format!("{} ({resident} with mapped files)", DecimalBytes(private)),
            None => resident.to_string(),
        })
    }
}

impl Report {
    /// The report as one HTML page that needs no other file: the totals, plots, and a table of the layers.
    pub fn to_html(&self) -> String {
        html::page(self).into_string()
    }

    /// Notes that a back end has used a library.
    pub(crate) fn note_library(&mut self, library: Option<UsedLibrary>) {
        let Some(mut library) = library.map(LibraryReport::from) else { return };
        self.onnxruntime.take().into_iter().for_each(|earlier| library.merge(earlier));
        self.onnxruntime = Some(library);
    }

    /// The layers that stay in float, by the reason.
    pub fn kept_by_reason(&self) -> BTreeMap<&str, Vec<&str>> {
        KeptLayer::by_reason(&self.kept)
    }
}
