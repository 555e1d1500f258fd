//! What a pass is, and how it is run.

use zqc_ir::patch::PatchError;
use zqc_ir::verify::{Faults, verify};
use zqc_ir::{Model, Patch};
use zqc_runtime::RunError;
use zqc_solvers::SolveError;

use crate::record::{ActivationRecord, LayerRecord, TuneRecord};
use crate::reuse_weights::SolvedWeights;
use crate::solve_weights::Calibration;

/// A transformation of the graph.
pub trait Pass {
    /// The name by which it is found in a pipeline, and printed: `canonicalize`.
    fn name(&self) -> &'static str;

    /// What this pass wants changed in `model`; the patch is empty when nothing is.
    ///
    /// # Errors
    /// When the pass cannot do its work on this model.
    fn run(&self, model: &Model, context: &mut Context) -> Result<Patch, PassError>;

    /// Whether the pass also runs on the subgraphs of `If`, `Loop` and `Scan`, each as a model of its own; else it is for the main
    /// graph alone.
    fn runs_on_subgraphs(&self) -> bool {
        true
    }
}

/// Which graph a pass runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The main graph of the model.
    #[default]
    Main,
    /// A subgraph of `If`, `Loop` or `Scan`, taken out as a model of its own.
    Subgraph,
}

/// What a pass is given beside the model.
pub struct Context<'a> {
    /// Hears what the pass does.
    pub observer: &'a mut dyn Observer,
    /// Which graph the model is.
    pub scope: Scope,
    /// The data that weights are solved on; `None` rounds them to nearest.
    pub calibration: Option<&'a Calibration<'a>>,
    /// Weights that were solved in another graph of the model.
    pub solved: Option<&'a SolvedWeights>,
    /// Of the patch's changes, the first so many are applied.
    pub limit: usize,
}

impl<'a> Context<'a> {
    /// For the main graph of a model, without calibration data.
    pub fn new(observer: &'a mut dyn Observer) -> Self {
        Self { observer, scope: Scope::Main, calibration: None, solved: None, limit: usize::MAX }
    }
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages name the fields
pub enum PassError {
    /// The patch does not fit the graph: a fault of the pass.
    #[error("pass {pass}: {source}")]
    Patch { pass: &'static str, source: PatchError },
    /// The graph is broken after the pass: a fault of the pass.
    #[error("pass {pass} broke the graph: {source}")]
    Broken { pass: &'static str, source: Faults },
    /// The graph has no order in which its nodes could run.
    #[error(transparent)]
    Cycle(#[from] zqc_ir::graph::Cycle),
    /// A stage of the graph could not be run on the calibration data.
    #[error("calibration: {0}")]
    Run(#[from] RunError),
    /// A stage of the graph could not be run on one of the calibration samples, or gives values that are not finite.
    #[error("calibration, sample {sample}: {source}")]
    Sample { sample: usize, source: Box<RunError> },
    /// A layer's weights could not be solved.
    #[error("layer {layer}: {source}")]
    Solve { layer: String, source: SolveError },
    /// A layer's weights cannot be read.
    #[error("layer {layer}: {source}")]
    Weight { layer: String, source: zqc_ir::tensor::TensorError },
    /// A layer's solved weights are no operands of a quantized layer: a fault of the solver.
    #[error("layer {layer}: {source}")]
    Operands { layer: String, source: zqc_ir::operands::OperandError },
    /// A call of one of our functions is not as we write them.
    #[error("node {node}: {reason}; the file was damaged or edited, compile the model again")]
    Malformed { node: String, reason: String },
    /// The model uses something that the pass cannot carry over.
    #[error("{what}; {way_out}")]
    Unsupported { what: String, way_out: String },
    /// The gradient of the end loss cannot be computed.
    #[error(transparent)]
    Gradient(#[from] zqc_gradient::GradientError),
    /// The observer wants no more, see [`Observer::stopped`].
    #[error("stopped")]
    Stopped,
}

/// Runs a pass on `model`, as [`run_in`] with a [`Context::new`].
///
/// # Errors
/// As [`run_in`].
pub fn run(pass: &dyn Pass, model: &mut Model, observer: &mut dyn Observer) -> Result<(), PassError> {
    run_in(pass, model, &mut Context::new(observer)).map(drop)
}

/// Runs a pass on `model`: the first changes of its patch, up to the limit of `context`, are applied and the result is verified.
/// What was changed and why, in order.
///
/// # Errors
/// When the pass fails; `model` must then be dropped.
pub fn run_in(pass: &dyn Pass, model: &mut Model, context: &mut Context) -> Result<Vec<String>, PassError> {
    let mut patch = pass.run(model, context)?;
    patch.truncate(context.limit);
    let reasons = patch.changes.iter().map(|change| change.why.clone()).collect();
    patch.apply(model).map_err(|source| PassError::Patch { pass: pass.name(), source })?;
    verify(model).map_err(|source| PassError::Broken { pass: pass.name(), source })?;
    Ok(reasons)
}

/// Hears what the passes do, for reports and progress bars.
pub trait Observer {
    /// A linear layer stays in float.
    fn layer_kept(&mut self, _layer: &str, _reason: &str) {}

    /// A linear layer is rounded to nearest, because no calibration data comes to it.
    fn layer_uncalibrated(&mut self, _layer: &str, _reason: &str) {}

    /// The weight of a linear layer gets another format than the one that was asked for.
    fn layer_recoded(&mut self, _layer: &str, _reason: &str) {}

    /// The weight of a linear layer, stored as `from` (`i8`, `u4` ...) behind `DequantizeLinear` in this many bytes, scales
    /// included, is taken to be quantized again.
    fn layer_requantized(&mut self, _layer: &str, _from: &str, _bytes: u64) {}

    /// The expression `regex` of the command-line option `option` names no layer.
    fn unmatched(&mut self, _option: &str, _regex: &str) {}

    /// Stage `index` of `count` begins, with `layers` layers to solve.
    fn stage_started(&mut self, _index: usize, _count: usize, _layers: usize) {}

    /// Calibration data has run through the layers that read an activation.
    fn activations_seen(&mut self, _record: ActivationRecord) {}

    /// The gradient of the end loss does not pass the node `node`: what lies before it lacks its part.
    fn gradient_stopped(&mut self, _node: &str, _reason: &str) {}

    /// Step `step` of `steps` of tuning is made; the divergence from the float model was `kl` nats a token before it.
    fn tuned(&mut self, _step: usize, _steps: usize, _kl: f64) {}

    /// Tuning has ended.
    fn tuning_finished(&mut self, _record: TuneRecord) {}

    /// The weights of a layer are solved.
    fn layer_solved(&mut self, _record: LayerRecord) {}

    /// Whether the run is to end early. Asked between samples and between layers; the pass then fails with
    /// [`PassError::Stopped`].
    fn stopped(&self) -> bool {
        false
    }
}

/// An observer that does nothing.
pub struct Silent;

impl Observer for Silent {}
