//! The passes of a compilation, as a list: the one place where their order stands.

mod stop;

use zqc_passes::{
    Canonicalize, ExpandAttention, ExpandEinsum, ExpandFused, ExpandMoe, InlineFunctions, Pass,
    QuantizeActivations, RaisePortable, ReuseWeights, ShareConstants, SolveWeights, SplitExperts,
};

use crate::error::Error;
use crate::options::{Emit, OnnxDialect, Options};
use crate::target::Target;

pub(crate) use stop::Changes;
pub use stop::StopAfter;

/// The part of a compilation that a pass belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Every linear layer to quantize becomes `zqc.linear`.
    FindLayers,
    /// They become `zqc.quantized_linear`.
    Quantize,
    /// What is left to do on the quantized graph, the layers in subgraphs included.
    Finish,
    /// Our operators become what the target reads.
    Lower,
}

/// What is done at one place of a pipeline.
pub(crate) enum Step {
    Pass(Box<dyn Pass>),
    /// The pipeline runs on every subgraph that has layers.
    Subgraphs,
}

impl Step {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pass(pass) => pass.name(),
            Self::Subgraphs => Pipeline::QUANTIZE_SUBGRAPHS,
        }
    }
}

/// The passes of a compilation in the order in which they run.
pub struct Pipeline {
    steps: Vec<(Phase, Step)>,
    stop: Option<StopAfter>,
}

impl Pipeline {
    /// The name of the step that runs the pipeline on the subgraphs of `If`, `Loop` and `Scan`.
    pub const QUANTIZE_SUBGRAPHS: &'static str = "quantize_subgraphs";

    /// The passes of a compilation with these options.
    pub fn for_options(options: &Options) -> Self {
        Self::for_target(options, options.target().as_ref())
    }

    /// The passes of a compilation with these options for a target of one's own.
    pub fn for_target(options: &Options, target: &dyn Target) -> Self {
        let select = || options.select(target);
        let mut pipeline = Self { steps: Vec::new(), stop: None };
        pipeline.add(Phase::FindLayers, RaisePortable);
        pipeline.add(Phase::FindLayers, InlineFunctions);
        pipeline.add(Phase::FindLayers, ExpandAttention { select: select() });
        pipeline.add(Phase::FindLayers, ExpandMoe { select: select() });
        pipeline.add(Phase::FindLayers, ExpandFused { select: select() });
        pipeline.add(Phase::FindLayers, ExpandEinsum { select: select() });
        pipeline.add(Phase::FindLayers, SplitExperts { select: select() });
        pipeline.add(Phase::FindLayers, Canonicalize { requantize: options.requantize });
        pipeline.add(Phase::FindLayers, select());
        if let Some(pass) = options.quantize_head(target) {
            pipeline.add(Phase::Quantize, pass);
        }
        if let Some(format) = options.activations {
            pipeline.add(Phase::Quantize, QuantizeActivations { format });
        }
        pipeline.add(Phase::Quantize, ReuseWeights);
        pipeline.add(Phase::Quantize, SolveWeights { config: options.config(target) });
        if let Some(pass) = options.tune() {
            pipeline.add(Phase::Quantize, pass);
        }
        pipeline.add(Phase::Finish, ShareConstants);
        if target.holds_subgraphs() {
            pipeline.steps.push((Phase::Finish, Step::Subgraphs));
        }
        pipeline.steps.extend(target.lowering().into_iter().map(|pass| (Phase::Lower, Step::Pass(pass))));
        pipeline
    }

    fn add(&mut self, phase: Phase, pass: impl Pass + 'static) {
        self.steps.push((phase, Step::Pass(Box::new(pass))));
    }

    /// The names of the steps, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().map(|(_, step)| step.name())
    }

    /// The names of all steps that a pipeline has for any options, each once.
    pub fn all_names() -> Vec<&'static str> {
        let mut names = Vec::new();
        for dialect in [OnnxDialect::Portable, OnnxDialect::Native] {
            let options = Options { emit: Emit::Onnx, dialect, tune: 1, ..Options::default() };
            for name in Self::for_options(&options).names() {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// The passes of a phase, in order.
    pub fn passes(&self, phase: Phase) -> impl Iterator<Item = &dyn Pass> {
        self.steps_of(phase).filter_map(|step| match step {
            Step::Pass(pass) => Some(pass.as_ref()),
            Step::Subgraphs => None,
        })
    }

    pub(crate) fn steps_of(&self, phase: Phase) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |(of, _)| *of == phase).map(|(_, step)| step)
    }

    /// Runs `pass` right after the step of this name.
    ///
    /// # Errors
    /// [`Error::UnknownPass`].
    pub fn insert_after(&mut self, name: &str, pass: Box<dyn Pass>) -> Result<(), Error> {
        let at = self.position(name)?;
        self.steps.insert(at + 1, (self.steps[at].0, Step::Pass(pass)));
        Ok(())
    }

    /// Leaves out the step of this name.
    ///
    /// # Errors
    /// [`Error::UnknownPass`].
    pub fn remove(&mut self, name: &str) -> Result<(), Error> {
        let at = self.position(name)?;
        self.steps.remove(at);
        Ok(())
    }

    /// Makes no change after this place. What follows is only what makes the graph fit to be written: layers that are not
    /// quantized by then are in float again, and the others are lowered. So the change that spoils a result can be found by
    /// bisection.
    ///
    /// # Errors
    /// [`Error::UnknownPass`], and [`Error::Usage`] for a pass that lowers.
    pub fn stop_after(&mut self, place: StopAfter) -> Result<(), Error> {
        if let StopAfter::Pass { name, .. } = &place {
            let at = self.position(name)?;
            if self.steps[at].0 == Phase::Lower {
                let reason = "what is not lowered cannot be written; see --print-ir-after";
                return Err(Error::Usage(format!("no stop after {name}: {reason}")));
            }
        }
        self.stop = Some(place);
        Ok(())
    }

    pub(crate) fn stop(&self) -> Option<&StopAfter> {
        self.stop.as_ref()
    }

    fn position(&self, name: &str) -> Result<usize, Error> {
        self.names()
            .position(|known| known == name)
            .ok_or_else(|| Error::UnknownPass { name: name.to_string(), known: self.names().collect() })
    }
}
