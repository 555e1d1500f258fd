//! What a user can choose.

mod choice;
mod emit;
#[cfg(feature = "cli")]
pub(crate) mod parse;
mod words;

use std::path::PathBuf;
use std::sync::Arc;

use zqc_formats::{ActivationFormat, FactorFormat, Format, WeightFormat};
use zqc_passes::{
    HessianSource, LayerPattern, LowRankConfig, LowRankMetric, QuantConfig, QuantizeHead, Select,
    TokenWeights, Tune,
};
use zqc_runtime::{Backend, backend};
use zqc_solvers::{GptqOptions, Grouping, Order, ScaleConstraint, ScaleSearch};

use crate::error::Error;
use crate::target::Target;

pub use choice::Choice;
pub use emit::{Emit, OnnxDialect};

/// How weights are solved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Method {
    /// GPTQ on calibration data.
    #[default]
    Gptq,
    /// Round to nearest, without data.
    Rtn,
}

/// What the language-model head and the table of the token embeddings become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
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
/// by GPTQ in groups of 16 with scales under M3, token-wise FP8 activations. Targets that do not take groups so small have groups of 64
/// and LoRC of rank 8, in about as many bits.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct Options {
    /// What the result is: an ONNX model, a folder of weights packed for the CUDA kernels, or the textual form of the quantized
    /// graph
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Output", value_parser = parse::choice::<Emit>(), default_value = Options::default().emit.word()))]
    pub emit: Emit,
    /// Target runtime of the ONNX model: stock ONNX Runtime 1.18 and later, with exact numbers, or importers that know ONNX's
    /// low-precision types
    #[cfg_attr(feature = "cli", arg(help_heading = "Output", id = "target", long = "target", value_name = "TARGET", value_parser = parse::choice::<OnnxDialect>(), default_value = Options::default().dialect.word()))]
    pub dialect: OnnxDialect,
    /// Number format of the weights: fp4 is E2M1; lut4 a table of 4 bits without zero, which loses a quarter less and is no floating
    /// point; int4 has zero points, the others are symmetric
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_parser = parse::choice::<WeightFormat>(), default_value = Options::default().weights.word()))]
    pub weights: WeightFormat,
    /// Number format of the activations; none leaves them in float
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_parser = parse::choice::<Activations>(), default_value = Options::default().activations.word()))]
    pub activations: Activations,
    /// Weights along the input that share a scale; 0 for the whole row [default: 16 where the scale of a group takes 4 bits (m1, m2, m3,
    /// m8); 64 under none, with --target native and with --emit cuda]
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization"))]
    pub group_size: Option<usize>,
    /// The language-model head and the table of the token embeddings, which a tied head shares: rounded with a scale for every
    /// entry (int8, with the head's activation in bfloat16, or fp8), or a table of int8 and a head that is solved as the other
    /// layers are (fp4) [default: int8; float with --target native or --emit cuda]
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_parser = parse::choice::<Head>()))]
    pub head: Option<Head>,
    /// How weights are solved
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_parser = parse::choice::<Method>(), default_value = Options::default().method.word()))]
    pub method: Method,
    /// The order in which GPTQ quantizes the columns
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_parser = parse::choice::<Order>(), default_value = Options::default().order.word()))]
    pub order: Order,
    /// How a group's scale is found
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_parser = parse::choice::<ScaleSearch>(), default_value = Options::default().scale_search.word()))]
    pub scale_search: ScaleSearch,
    /// The constraint on the scales of a row: powers of two (m1), a row scale times powers of two (m2), or a row scale times
    /// powers of two times 1, 5/4 or 3/2 (m3); found by search or snapped; or steps of E4M3 codes below the row (m8)
    /// [default: m3 for fp4, m8 for lut4, else none]
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_parser = parse::choice::<ScaleConstraint>()))]
    pub scale: Option<ScaleConstraint>,
    /// Rank of the low-rank compensation; 0 for none [default: 8 for weights of 4 bits in groups of more than 16, else 0]
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_name = "RANK"))]
    pub lorc_rank: Option<usize>,
    /// What the compensation repairs: the weight, or the output on the calibration data
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_parser = parse::choice::<LowRankMetric>(), default_value = Options::default().lorc.word()))]
    pub lorc: LowRankMetric,
    /// Number format of the compensation
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_parser = parse::choice::<FactorFormat>(), default_value = Options::default().lorc_factors.word()))]
    pub lorc_factors: FactorFormat,
    /// How often weight and compensation are solved in turn
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_name = "ROUNDS", value_parser = parse::positive, default_value_t = Options::default().lorc_rounds))]
    pub lorc_rounds: usize,
    /// The activations that Hessians are gathered from
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_parser = parse::choice::<HessianSource>(), default_value = Options::default().hessian.word()))]
    pub hessian: HessianSource,
    /// What calibration tokens count in Hessians: all the same, or by the gradient of the end loss at the layer's output, which takes
    /// as long as three to four runs of the model on them
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_parser = parse::choice::<TokenWeights>(), default_value = Options::default().token_weights.word()))]
    pub token_weights: TokenWeights,
    /// The share of the error left by earlier layers that a layer takes over, 0 to 1
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_parser = parse::share, default_value_t = Options::default().propagation))]
    pub propagation: f64,
    /// Steps of gradient descent on the KL divergence from the float model, over a factor for every row of a layer and every element
    /// of a norm's gain; 0 for none. A step takes 4,096 tokens, or one longer sample, four times through the model [default: 0; 40
    /// where STEPS is left out]
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", value_name = "STEPS", num_args = 0..=1, default_missing_value = "40", default_value_t = Options::default().tune, hide_default_value = true))]
    pub tune: usize,
    /// Calibration data: .txt, .jsonl, .npz or .safetensors, see docs/calibration.md; without, the model writes its own text
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Calibration", num_args = 1.., value_name = "FILE"))]
    pub calibration: Vec<PathBuf>,
    /// The model's tokenizer.json, for text [default: the one beside the model, or one folder above]
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Calibration", value_name = "FILE"))]
    pub tokenizer: Option<PathBuf>,
    /// Calibration samples at most [default: 128; 16 of self-written text]
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Calibration", value_parser = parse::positive))]
    pub samples: Option<usize>,
    /// Tokens of a sample [default: 2048, or what the model takes; 512 of self-written text]
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Calibration", value_parser = parse::positive))]
    pub seq_len: Option<usize>,
    /// Token id that begins every sample
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Calibration", value_name = "ID", value_parser = clap::value_parser!(i64).range(0..)))]
    pub bos: Option<i64>,
    /// Layers to leave in float, by path, node or weight name
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", num_args = 1.., value_name = "REGEX"))]
    pub keep: Vec<LayerPattern>,
    /// Quantize these layers and no others, the head included when it is named
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization", num_args = 1.., value_name = "REGEX"))]
    pub only: Vec<LayerPattern>,
    /// Quantizes again what is quantized already, where its weight is behind DequantizeLinear or in MatMulNBits; such weights
    /// are held in memory in float
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Quantization"))]
    pub requantize: bool,
    /// What runs the standard operators in calibration: rten, ort (ONNX Runtime), or auto: rten, and ort for what rten cannot
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Runtime", value_name = "NAME", default_value_t = Options::default().backend))]
    pub backend: String,
    /// Threads, at most one a core [default: one a core]
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Runtime", value_parser = parse::threads))]
    pub threads: Option<usize>,
    /// Skips the verification of the output, which is otherwise read back and run before it replaces anything
    #[cfg_attr(feature = "cli", arg(help_heading = "Output", id = "no-verify", long = "no-verify", action = clap::ArgAction::SetFalse))]
    pub verify: bool,
    /// Puts the weights into OUTPUT.data beside the model, which runtimes map into memory instead of reading it; else only
    /// those of 2 GB and more lie there, and those of a folder whose own do
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Output"))]
    pub external_data: bool,
    /// Keeps no state beside the output, and takes none of a run that was stopped
    #[cfg_attr(feature = "cli", arg(help_heading = "Output", id = "no-resume", long = "no-resume", action = clap::ArgAction::SetFalse))]
    pub resume: bool,
}

/// The number format of the activations; `None` leaves them in float.
pub type Activations = Option<ActivationFormat>;

impl Default for Options {
    fn default() -> Self {
        Self {
            emit: Emit::default(),
            dialect: OnnxDialect::default(),
            weights: Format::E2M1.into(),
            activations: Some(ActivationFormat::E4M3),
            group_size: None,
            method: Method::default(),
            order: Order::default(),
            scale_search: ScaleSearch::default(),
            scale: None,
            lorc_rank: None,
            lorc: LowRankMetric::default(),
            lorc_factors: FactorFormat::E4M3,
            lorc_rounds: LowRankConfig::default().rounds,
            hessian: HessianSource::default(),
            token_weights: TokenWeights::default(),
            propagation: 0.5,
            tune: 0,
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
    /// Checks that the choices go together, and with the target.
    pub(crate) fn check(&self, target: &dyn Target) -> Result<(), Error> {
        let grouping = self.config(target).gptq.grouping;
        if let Err(reason) = grouping.check() {
            let (scale, weights) = (grouping.constraint.word(), self.weights.word());
            return Err(Error::Usage(format!("--scale {scale} with --weights {weights}: {reason}")));
        }
        if self.head == Some(Head::Fp4) && self.weights.format != Format::E2M1 {
            let reason = "the head is solved as the other layers are";
            let weights = self.weights.word();
            return Err(Error::Usage(format!(
                "--head fp4 with --weights {weights}: {reason}; use --head int8"
            )));
        }
        if self.tune > 0 && self.method == Method::Rtn {
            let reason = "it needs calibration data, and rounding to nearest reads none";
            return Err(Error::Usage(format!("--tune with --method rtn: {reason}; leave one of them out")));
        }
        target.check(self)
    }

    pub(crate) fn select(&self, target: &dyn Target) -> Select {
        let head = self.head(target) != Head::Float;
        Select { keep: self.keep.clone(), only: self.only.clone(), head }
    }

    /// What becomes of the head and the table of the tokens: what was chosen or INT8, and float where the target has no form for a
    /// table of codes.
    pub fn head(&self, target: &dyn Target) -> Head {
        match target.holds_tables() {
            true => self.head.unwrap_or_default(),
            false => Head::Float,
        }
    }

    /// The pass that quantizes the head and the table of the tokens, unless they stay in float. A head of INT8 reads its activation
    /// in bfloat16, as 8 bits of it cost more than those of the weight.
    pub(crate) fn quantize_head(&self, target: &dyn Target) -> Option<QuantizeHead> {
        let (format, activations) = match self.head(target) {
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
        let head = self.head(target) != Head::Fp4;
        Some(QuantizeHead { select: self.select(target), grouping, head, activations })
    }

    /// The pass that tunes what was quantized, if steps are asked for. Scales that are powers of two have no factors.
    pub(crate) fn tune(&self) -> Option<Tune> {
        let rows = !matches!(self.constraint(), ScaleConstraint::M1(_));
        (self.tune > 0).then_some(Tune { steps: self.tune, rows })
    }

    /// The back end `given`, or else the one that is named.
    pub(crate) fn backend(&self, given: Option<&Arc<dyn Backend>>) -> Result<Arc<dyn Backend>, Error> {
        match given {
            Some(given) => Ok(given.clone()),
            None => Ok(backend(&self.backend, self.threads)?.into()),
        }
    }

    /// The constraint on the scales of a row.
    fn constraint(&self) -> ScaleConstraint {
        self.scale.unwrap_or_else(|| ScaleConstraint::by_default(self.weights.format))
    }

    /// How weights are solved. At equal bits small groups are worth more than a branch; where a scale takes more bits than a step of a
    /// ladder does, they are too dear.
    pub(crate) fn config(&self, target: &dyn Target) -> QuantConfig {
        const SMALL_GROUP: usize = 16;
        const GROUP: usize = 64;
        let constraint = self.constraint();
        let has_steps = constraint.ladder().is_some();
        let small = has_steps && target.takes_small_groups();
        let group_size = self.group_size.unwrap_or(if small { SMALL_GROUP } else { GROUP });
        let is_small = (1..=SMALL_GROUP).contains(&group_size);
        let rank = match self.weights.format.bits() {
            4 if !is_small => LowRankConfig::default().rank,
            _ => 0,
        };
        let rank = self.lorc_rank.unwrap_or(rank);
        let branch =
            LowRankConfig { rank, metric: self.lorc, factors: self.lorc_factors, rounds: self.lorc_rounds };
        let grouping =
            Grouping { format: self.weights, group_size, scale_search: self.scale_search, constraint };
        QuantConfig {
            gptq: GptqOptions { grouping, order: self.order, ..Default::default() },
            branch: (rank > 0).then_some(branch),
        }
    }
}
