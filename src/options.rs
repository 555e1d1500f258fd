//! What a user can choose.

use std::path::PathBuf;

use regex::Regex;
use zqc_numerics::{Format, Order, ScaleSearch};

/// How weights are solved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// GPTQ on calibration data.
    #[default]
    Gptq,
    /// Round to nearest, without data.
    Rtn,
}

/// What a compilation writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Emit {
    /// A lowered ONNX model.
    #[default]
    Onnx,
    /// The textual form of the quantized graph, before it is lowered.
    Ir,
}

/// The choices of a compilation. The default is the recipe of ZeroQuant-FP: FP4 weights by GPTQ in groups of 128,
/// token-wise FP8 activations.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is written.
    pub emit: Emit,
    /// Number format of the weights.
    pub weights: Format,
    /// Number format of the activations.
    pub activations: Format,
    /// Weights along K that share a scale; 0 means the whole row.
    pub group_size: usize,
    /// How weights are solved.
    pub method: Method,
    /// Which column GPTQ quantizes when.
    pub order: Order,
    /// How the scale of a group is found.
    pub scale_search: ScaleSearch,
    /// Calibration files; with none, the model writes its own text.
    pub calibration: Vec<PathBuf>,
    /// The tokenizer for calibration text.
    pub tokenizer: Option<PathBuf>,
    /// Calibration samples at most; by default 128, or 16 that the model writes itself.
    pub samples: Option<usize>,
    /// Tokens of a sample at most; by default 2048, or 512 that the model writes itself.
    pub seq_len: Option<usize>,
    /// Token id that begins every sample.
    pub bos: Option<i64>,
    /// Layers to leave in float.
    pub keep: Vec<Regex>,
    /// The only layers to quantize; empty means all that the policy allows.
    pub only: Vec<Regex>,
    /// Name of the back end that runs the standard operators.
    pub backend: String,
    /// Threads; by default one a core.
    pub threads: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            emit: Emit::default(),
            weights: Format::E2M1,
            activations: Format::E4M3,
            group_size: 128,
            method: Method::default(),
            order: Order::default(),
            scale_search: ScaleSearch::default(),
            calibration: Vec::new(),
            tokenizer: None,
            samples: None,
            seq_len: None,
            bos: None,
            keep: Vec::new(),
            only: Vec::new(),
            backend: "rten".to_string(),
            threads: None,
        }
    }
}
