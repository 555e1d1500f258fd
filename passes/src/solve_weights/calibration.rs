//! What weights are solved on.

use zqc_ir::{Model, ValueId};
use zqc_runtime::{Array, Backend};

use super::Solution;
use super::token_weights::TokenWeights;

/// What a graph is calibrated on.
pub struct Calibration<'a> {
    /// Runs the standard operators.
    pub backend: &'a dyn Backend,
    /// Inputs of the graph by name, one entry a sample.
    pub samples: &'a [Vec<(String, Array)>],
    /// What activations the Hessians are gathered from.
    pub hessian: HessianSource,
    /// What tokens count in Hessians.
    pub token_weights: TokenWeights,
    /// The share of the error left by the layers before it that a layer takes over, from 0 to 1: 0 solves every layer for
    /// its own weight, 1 for the float model's output (as GPTAQ, arXiv 2504.02692, which leaves the residual stream out). Any
    /// but 0 runs the float model beside the quantized one, which doubles the activations held; without effect on Hessians of
    /// the float model.
    pub propagation: f64,
    /// More samples, to tune on what weights were not solved on.
    pub more: &'a [Vec<(String, Array)>],
    /// The float language model, for what looks at a model's end; `None` where it is none.
    pub reference: Option<Reference<'a>>,
    /// Where solved stages are kept, for a run that is stopped to go on.
    pub checkpoints: Option<&'a dyn Checkpoints>,
}

/// The float language model that is quantized.
#[derive(Clone, Copy)]
pub struct Reference<'a> {
    /// As it came.
    pub model: &'a Model,
    /// Its logits, a result of the graph.
    pub logits: ValueId,
}

/// Keeps the solutions of stages. The stages of a model and what they are solved on follow from the model, the options and
/// the samples: whoever keeps them sees to it that these are the same.
pub trait Checkpoints {
    /// The solutions of a stage as they were stored.
    fn load(&self, stage: usize) -> Option<Vec<Solution>>;

    /// Stores the solutions of a stage.
    fn store(&self, stage: usize, solutions: &[&Solution]);
}

/// The activations that Hessians are gathered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HessianSource {
    /// Those that the quantized layer will see: of the quantized prefix, quantized.
    #[default]
    Quantized,
    /// Those of the float model.
    Float,
}

impl Calibration<'_> {
    /// Whether the float model runs beside the quantized one.
    pub(super) fn runs_float(&self) -> bool {
        self.hessian == HessianSource::Float || self.corrects()
    }

    /// Whether layers make up for earlier ones.
    pub(super) fn corrects(&self) -> bool {
        self.hessian == HessianSource::Quantized && self.propagation != 0.0
    }
}
