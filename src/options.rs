//! What a user can choose.

mod choice;
mod words;

use std::fmt::Display;
use std::path::PathBuf;

use regex::Regex;
use zqc_kernels::{Codes, Geometry};
use zqc_numerics::{
    ActivationFormat, FactorFormat, Format, GptqOptions, Grouping, Order, ScaleConstraint, ScaleSearch,
    WeightFormat,
};
use zqc_passes::{Branch, BranchMetric, HessianSource, Pass, QuantizeHead, Recipe, Select, finders};
use zqc_runtime::{BackendError, available_backends};

use crate::error::Error;

pub use choice::Choice;

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
    /// A folder of packed weights and the CUDA kernels that read them, see [`zqc_kernels`].
    Cuda,
    /// The textual form of the quantized graph, before it is lowered.
    Ir,
}

/// Who is to read an ONNX model that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// Stock ONNX Runtime, which runs it with exact numbers, see [`LowerPortable`](zqc_passes::LowerPortable).
    #[default]
    Portable,
    /// Importers that know ONNX's low-precision types, see [`LowerNative`](zqc_passes::LowerNative).
    Native,
}

/// What the language-model head and the table of the token embeddings become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Head {
    /// INT8 with a scale for every entry; the head reads its activation in bfloat16.
    #[default]
    Int8,
    /// E4M3 with a scale for every entry.
    Fp8,
    /// The head is solved as the other layers, of FP4, are; the table is INT8, and not shared with it.
    Fp4,
    /// Float, as they came.
    Float,
}

/// The choices of a compilation. The default is the recipe of ZeroQuant-FP with what was found to improve it: FP4 weights
/// by GPTQ in groups of 64, scales under M3, LoRC of rank 8, token-wise FP8 activations.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is written.
    pub emit: Emit,
    /// Who is to read the ONNX model.
    pub target: Target,
    /// Number format of the weights.
    pub weights: WeightFormat,
    /// Number format of the activations; `None` leaves them in float.
    pub activations: Option<ActivationFormat>,
    /// Weights along K that share a scale; 0 means the whole row.
    pub group_size: usize,
    /// How weights are solved.
    pub method: Method,
    /// Which column GPTQ quantizes when.
    pub order: Order,
    /// How the scale of a group is found.
    pub scale_search: ScaleSearch,
    /// How the scales of a row are bound to each other; by default M3 for E2M1, and not at all otherwise.
    pub scale: Option<ScaleConstraint>,
    /// Rank of the low-rank branch, 0 for none; by default 8 beside weights of 4 bits.
    pub lorc_rank: Option<usize>,
    /// What the branch repairs.
    pub lorc: BranchMetric,
    /// Number format of its factors.
    pub lorc_factors: FactorFormat,
    /// How often weight and branch are solved in turn.
    pub lorc_rounds: usize,
    /// What activations the Hessians are gathered from.
    pub hessian: HessianSource,
    /// The share of the error left by earlier layers that a layer takes over, 0 to 1.
    pub propagation: f64,
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
    /// What the head and the table of the tokens become; by default INT8 where the result can hold it, see
    /// [`Options::head`].
    pub head: Option<Head>,
    /// Layers to leave in float.
    pub keep: Vec<Regex>,
    /// The only layers to quantize; empty means all that the policy allows.
    pub only: Vec<Regex>,
    /// Whether weights behind `DequantizeLinear` or in `MatMulNBits` are quantized again; else such layers stay as they are.
    pub requantize: bool,
    /// Name of the back end that runs the standard operators, see [`zqc_runtime::backend`].
    pub backend: String,
    /// Threads; by default one a core.
    pub threads: Option<usize>,
    /// Whether what is written is read back and run before it replaces what was there.
    pub verify: bool,
    /// Whether the weights go to a data file beside the model, whatever their size.
    pub external_data: bool,
    /// Whether solved stages are kept beside the output, for the same compilation to go on after it was stopped.
    pub resume: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            emit: Emit::default(),
            target: Target::default(),
            weights: Format::E2M1.into(),
            activations: Some(ActivationFormat::E4M3),
            group_size: 64,
            method: Method::default(),
            order: Order::default(),
            scale_search: ScaleSearch::default(),
            scale: None,
            lorc_rank: None,
            lorc: BranchMetric::default(),
            lorc_factors: FactorFormat::E4M3,
            lorc_rounds: Branch::default().rounds,
            hessian: HessianSource::default(),
            propagation: 0.5,
            calibration: Vec::new(),
            tokenizer: None,
            samples: None,
            seq_len: None,
            bos: None,
            head: None,
            keep: Vec::new(),
            only: Vec::new(),
            requantize: false,
            backend: "auto".to_string(),
            threads: None,
            verify: true,
            external_data: false,
            resume: true,
        }
    }
}

impl Options {
    /// Checks that the choices go together.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !available_backends().contains(&self.backend.as_str()) {
            return Err(BackendError::UnknownBackend { name: self.backend.clone() }.into());
        }
        let grouping = self.recipe().gptq.grouping;
        if let Err(reason) = grouping.check() {
            let (scale, weights) = (grouping.constraint.word(), self.weights.word());
            return Err(Error::Usage(format!("--scale {scale} with --weights {weights}: {reason}")));
        }
        if self.emit == Emit::Onnx && self.target == Target::Native && self.weights.format == Format::E3M0 {
            let reason = "ONNX has no type for these weights";
            return Err(Error::Usage(format!("--weights e3m0: {reason}; use --target portable")));
        }
        if self.head == Some(Head::Fp4) && self.weights.format != Format::E2M1 {
            let reason = "the head is solved as the other layers are";
            let weights = self.weights.word();
            return Err(Error::Usage(format!(
                "--head fp4 with --weights {weights}: {reason}; use --head int8"
            )));
        }
        match self.emit {
            Emit::Cuda => self.check_packable(),
            Emit::Onnx | Emit::Ir => Ok(()),
        }
    }

    /// Checks that layers solved with these choices can be packed for the kernels.
    fn check_packable(&self) -> Result<(), Error> {
        let Recipe { gptq, branch } = self.recipe();
        let grouping = gptq.grouping;
        let refused = |option: &str, value: &dyn Display, way_out: &str| {
            Err(Error::Usage(format!("{option} {value}: --emit cuda cannot pack it; use {way_out}")))
        };
        if self.target != Target::Portable {
            return refused("--target", &self.target.word(), "--emit onnx, which alone has targets");
        }
        if Codes::of(self.weights.format).is_none() {
            return refused("--weights", &self.weights.word(), "--weights fp4 or e3m0");
        }
        if self.activations != Some(ActivationFormat::E4M3) {
            return refused("--activations", &self.activations.word(), "--activations fp8");
        }
        if self.group_size > 0 && !Geometry::is_group_size(self.group_size) {
            let way_out = "--group-size 32, 64, a multiple of 128, or 0 for the whole row";
            return refused("--group-size", &self.group_size, way_out);
        }
        if self.group_size > 0 && grouping.constraint.ladder().is_none() {
            let constraint = if self.weights.format == Format::E2M1 { "m3" } else { "m2" };
            let way_out = format!("--scale {constraint}, or --group-size 0 for one scale a row");
            return refused("--scale", &grouping.constraint.word(), &way_out);
        }
        match branch {
            Some(Branch { factors: FactorFormat::Bf16, .. }) => {
                refused("--lorc-factors", &FactorFormat::Bf16.word(), "--lorc-factors fp8")
            }
            _ => Ok(()),
        }
    }

    /// Whether what is emitted can hold quantized layers in the bodies of control flow: a package holds those of the main graph,
    /// and the native types are not lowered inside bodies.
    pub(crate) fn lowers_bodies(&self) -> bool {
        self.target == Target::Portable && self.emit != Emit::Cuda
    }

    /// The passes that find the layers to quantize, in order: of the main graph, or of a body, where the head and the table of the
    /// tokens stay in float.
    pub(crate) fn finders(&self, in_body: bool) -> Vec<Box<dyn Pass>> {
        let select = if in_body { Select { head: false, ..self.select() } } else { self.select() };
        let mut passes = Vec::from(finders(&select, self.requantize));
        passes.push(Box::new(select));
        passes
    }

    fn select(&self) -> Select {
        let head = self.head() != Head::Float;
        Select { keep: self.keep.clone(), only: self.only.clone(), head }
    }

    /// What becomes of the head and the table of the tokens: what was chosen or INT8, and float where the result has no form for a
    /// table of codes, as the native types and packages.
    pub fn head(&self) -> Head {
        match self.holds_tables() {
            true => self.head.unwrap_or_default(),
            false => Head::Float,
        }
    }

    /// Whether what is emitted can hold tables of codes.
    pub(crate) fn holds_tables(&self) -> bool {
        self.target == Target::Portable && self.emit != Emit::Cuda
    }

    /// The pass that quantizes the head and the table of the tokens, unless they stay in float. A head of INT8 reads its activation
    /// in bfloat16, as 8 bits of it cost more than those of the weight.
    pub(crate) fn quantize_head(&self) -> Option<QuantizeHead> {
        let (format, activations) = match self.head() {
            Head::Float => return None,
            Head::Int8 | Head::Fp4 => (Format::Int8, None),
            Head::Fp8 => (Format::E4M3, self.activations),
        };
        let grouping = Grouping {
            format: format.into(),
            group_size: 0,
            scale_search: ScaleSearch::Max,
            constraint: ScaleConstraint::None,
        };
        let head = self.head() != Head::Fp4;
        Some(QuantizeHead { select: self.select(), grouping, head, activations })
    }

    /// How weights are solved.
    pub(crate) fn recipe(&self) -> Recipe {
        let rank = self.lorc_rank.unwrap_or(if self.weights.format.bits() == 4 {
            Branch::default().rank
        } else {
            0
        });
        let branch = Branch { rank, metric: self.lorc, factors: self.lorc_factors, rounds: self.lorc_rounds };
        let by_default = match self.weights.format {
            Format::E2M1 => ScaleConstraint::M3,
            _ => ScaleConstraint::None,
        };
        let grouping = Grouping {
            format: self.weights,
            group_size: self.group_size,
            scale_search: self.scale_search,
            constraint: self.scale.unwrap_or(by_default),
        };
        Recipe {
            gptq: GptqOptions { grouping, order: self.order, ..Default::default() },
            branch: (rank > 0).then_some(branch),
        }
    }
}
