//! A pipeline at work on a model.

use std::collections::HashSet;
use std::time::Instant;

use zqc_ir::tensor::DataType;
use zqc_ir::{Graph, Model, Op};
use zqc_passes::{
    Calibration, Checkpoints, Context, Pass, PassError, Reference, RestoreFloat, Scope, SolvedWeights, Tune,
    run_in, vocabulary, weights_of_layers,
};
use zqc_runtime::{Backend, BackendError, InputSpec, RunError, token_input};

use super::recorder::Recorder;
use super::subgraphs::has_quantizable_subgraph;
use super::{Compiler, Data, Events};
use crate::calibration::{Samples, given, logits_output, samples};
use crate::error::Error;
use crate::evaluate::compare_held_out;
use crate::options::Method;
use crate::pipeline::{Changes, Phase, Pipeline, Step};
use crate::raise::raise;
use crate::report::Report;
use crate::resume::State;
use crate::verify::Inputs;

/// What is kept of quantizing.
#[derive(Default)]
pub(super) struct Quantized {
    /// The names of the constants that the layers were made of.
    pub weights: HashSet<String>,
    /// The first calibration sample.
    pub sample: Option<Inputs>,
}

/// A compilation under way, of a model or of a subgraph of one.
pub(super) struct Run<'a> {
    pub compiler: &'a Compiler,
    pub model: &'a mut Model,
    pub report: &'a mut Report,
    pub events: &'a mut dyn Events,
    pub scope: Scope,
    /// Whether this only finds out what there is to do: nothing is counted, and the pipeline does not stop.
    pub is_trial: bool,
    pub changes: Changes,
}

/// Whether the graph has operators of ONNX only.
pub(super) fn is_lowered(graph: &Graph) -> bool {
    graph.nodes().all(|(_, node)| matches!(node.op, Op::Onnx(_)))
}

/// What the layers of a graph are solved with.
#[derive(Clone, Copy)]
pub(super) struct Solving<'a> {
    /// Nothing is run without.
    pub backend: Option<&'a dyn Backend>,
    pub samples: &'a [Inputs],
    /// See [`Calibration::more`].
    pub more: &'a [Inputs],
    /// The float model, if it is a language model.
    pub reference: Option<Reference<'a>>,
    pub state: Option<&'a State>,
}

/// The model with its logits, if it is a language model.
fn reference(model: &Model) -> Option<Reference<'_>> {
    // A model with inputs that are no tensors is none.
    let specs = InputSpec::of_graph(&model.graph).ok()?;
    let vocabulary = vocabulary(&model.graph, &token_input(&specs)?.name)?;
    Some(Reference { model, logits: logits_output(model, vocabulary)? })
}

impl<'a> Run<'a> {
    pub fn new(
        compiler: &'a Compiler,
        model: &'a mut Model,
        report: &'a mut Report,
        events: &'a mut dyn Events,
    ) -> Self {
        let (scope, changes) = (Scope::Main, Changes::default());
        Self { compiler, model, report, events, scope, is_trial: false, changes }
    }

    /// Runs the passes up to the lowering: the quantized graph in its canonical form.
    pub fn quantize(&mut self, data: Data, state: Option<&State>) -> Result<Quantized, Error> {
        let options = &self.compiler.options;
        let target = self.compiler.target.as_ref();
        let source = self.model.clone();
        self.find_layers()?;
        if options.head.is_some_and(|head| head != options.head(target)) {
            self.warn("the head and the table of the tokens stay in float: only a portable ONNX model holds a table of codes");
        }
        if self.computes_in(DataType::Bfloat16) {
            self.warn("the model computes in bfloat16, and so will what comes of it: ONNX Runtime's CPU provider runs neither");
        }
        let in_subgraphs = has_quantizable_subgraph(self.model, self.compiler);
        if in_subgraphs && !target.holds_subgraphs() {
            self.warn("the layers in the bodies of If, Loop and Scan stay in float: only a portable ONNX model holds them");
        }
        let in_subgraphs = in_subgraphs && target.holds_subgraphs();
        if !self.has_layers() && !in_subgraphs && !self.changes.stopped() {
            *self.model = source;
            // Text may hold layers that were quantized before.
            if is_lowered(&self.model.graph) {
                self.warn(&format!("no linear layer is left to quantize: {}", target.without_layers()));
            }
            return Ok(Quantized::default());
        }
        let weights = weights_of_layers(&self.model.graph).map_err(PassError::from)?;
        let backend = match options.backend(self.compiler.backend.as_ref()) {
            // Rounding to nearest runs nothing.
            Err(Error::Backend(BackendError::NotBuilt { .. })) if options.method == Method::Rtn => None,
            backend => Some(backend?),
        };
        let backend = backend.as_deref();
        let mut raised = source;
        raise(&mut raised)?;
        let samples = match self.changes.stopped() {
            true => Samples::none(),
            false => self.samples(&raised, data, backend, state)?,
        };
        state.into_iter().for_each(|state| state.set_samples(&samples.inputs));
        let reference = reference(&raised);
        if options.tune > 0 {
            Tune::reference(reference)?;
            if samples.inputs.is_empty() && !self.changes.stopped() {
                self.warn("nothing is tuned: there is no calibration data");
            }
        }
        let solving = Solving { backend, samples: &samples.inputs, more: &samples.more, reference, state };
        let mut solved = SolvedWeights::default();
        let float = in_subgraphs.then(|| self.model.graph.clone());
        self.run(Phase::Quantize, &solving, &mut solved).map_err(|error| samples.named(error))?;
        if let (Some(float), graph) = (float, &self.model.graph) {
            // Subgraphs are lowered before the graph around them: until then their operands lie in another way.
            solved.learn(&float, graph, |name| graph.fresh_name(name));
        }
        self.run(Phase::Finish, &solving, &mut solved)?;
        self.restore_float()?;
        if !in_subgraphs && !self.changes.stopped() {
            self.compare(&raised, &samples, backend)?;
        }
        self.report.note_library(backend.and_then(Backend::used_library));
        if let Some(stop) = self.compiler.pipeline.stop().filter(|_| self.changes.stopped()) {
            self.warn(&format!("stopped after {stop}: layers that were not quantized by then stay in float"));
        }
        self.report.add_up();
        Ok(Quantized { weights, sample: samples.inputs.into_iter().next() })
    }

    /// Compares the quantized model with the `float` one on the samples that were held out.
    fn compare(
        &mut self,
        float: &Model,
        samples: &Samples,
        backend: Option<&dyn Backend>,
    ) -> Result<(), Error> {
        let Some(backend) = backend.filter(|_| !samples.held_out.is_empty()) else { return Ok(()) };
        self.events.step("comparing both models on tokens that were held out");
        let events = &*self.events;
        match compare_held_out(self.model, float, &samples.held_out, backend, &|| events.stopped()) {
            Err(Error::Pass(PassError::Stopped)) => return Err(PassError::Stopped.into()),
            Err(error) => self.warn(&format!("the models cannot be compared on held-out tokens: {error}")),
            Ok(found) => self.report.held_out = found,
        }
        Ok(())
    }

    /// Puts layers that a pipeline left behind when it stopped back in float, where the graph is lowered then.
    pub fn restore_float(&mut self) -> Result<(), Error> {
        let lowers = self.compiler.pipeline.passes(Phase::Lower).next().is_some();
        if self.changes.stopped() && lowers { self.apply(&RestoreFloat) } else { Ok(()) }
    }

    /// Makes of the quantized graph what the target reads, if anything was quantized.
    pub fn lower(&mut self) -> Result<(), Error> {
        let compiler = self.compiler;
        if self.report.layers.is_empty() && is_lowered(&self.model.graph) && !self.changes.stopped() {
            return Ok(());
        }
        let mut passes = compiler.pipeline.passes(Phase::Lower);
        passes.try_for_each(|pass| if self.runs(pass) { self.apply(pass) } else { Ok(()) })
    }

    /// Runs the passes that find the layers to quantize.
    pub fn find_layers(&mut self) -> Result<(), Error> {
        let compiler = self.compiler;
        let mut passes = compiler.pipeline.passes(Phase::FindLayers);
        passes.try_for_each(|pass| if self.runs(pass) { self.make(pass, None, None) } else { Ok(()) })
    }

    /// Runs the steps of a phase after the layers were found; subgraphs take over what is `solved`.
    pub fn run(&mut self, phase: Phase, solving: &Solving, solved: &mut SolvedWeights) -> Result<(), Error> {
        let options = &self.compiler.options;
        let has_data = options.method == Method::Gptq && !solving.samples.is_empty();
        let calibration = solving.backend.filter(|_| has_data).map(|backend| Calibration {
            backend,
            samples: solving.samples,
            hessian: options.hessian,
            token_weights: options.token_weights,
            propagation: options.propagation,
            more: solving.more,
            reference: solving.reference,
            checkpoints: solving.state.map(|state| state as &dyn Checkpoints),
        });
        let calibration = calibration.as_ref();
        let compiler = self.compiler;
        for step in compiler.pipeline.steps_of(phase) {
            match step {
                Step::Pass(pass) if self.runs(pass.as_ref()) => {
                    self.make(pass.as_ref(), calibration, Some(solved))?;
                }
                Step::Pass(_) => {}
                Step::Subgraphs if self.changes.stopped() => {}
                Step::Subgraphs => {
                    self.quantize_subgraphs(solving, solved)?;
                    self.events.pass_finished(Pipeline::QUANTIZE_SUBGRAPHS, self.model);
                }
            }
        }
        Ok(())
    }

    fn runs(&self, pass: &dyn Pass) -> bool {
        self.scope == Scope::Main || pass.runs_on_subgraphs()
    }

    /// Applies a pass unless the pipeline has stopped, up to where it is to stop.
    fn make(
        &mut self,
        pass: &dyn Pass,
        calibration: Option<&Calibration>,
        solved: Option<&SolvedWeights>,
    ) -> Result<(), Error> {
        if self.changes.stopped() {
            return Ok(());
        }
        if self.is_trial {
            return self.apply_first(usize::MAX, pass, calibration, solved).map(drop);
        }
        let stop = self.compiler.pipeline.stop();
        let limit = self.changes.limit(pass.name(), stop);
        let reasons = self.apply_first(limit, pass, calibration, solved)?;
        self.changes.note(pass.name(), &reasons, stop);
        Ok(())
    }

    /// Applies a pass whole.
    pub fn apply(&mut self, pass: &dyn Pass) -> Result<(), Error> {
        let reasons = self.apply_first(usize::MAX, pass, None, None)?;
        self.changes.note(pass.name(), &reasons, None);
        Ok(())
    }

    fn apply_first(
        &mut self,
        limit: usize,
        pass: &dyn Pass,
        calibration: Option<&Calibration>,
        solved: Option<&SolvedWeights>,
    ) -> Result<Vec<String>, Error> {
        let (started, known) = (Instant::now(), self.report.layers.len());
        let mut recorder = Recorder::new(self.report, self.events);
        let mut context = Context { observer: &mut recorder, scope: self.scope, calibration, solved, limit };
        let reasons = run_in(pass, self.model, &mut context)?;
        recorder.finish_stage();
        if limit < usize::MAX {
            self.forget_unapplied(known);
        }
        let (name, nodes) = (pass.name(), self.model.graph.nodes().count());
        if !self.is_trial {
            let seconds = started.elapsed().as_secs_f64();
            tracing::info!("{name}: {} changes, {nodes} nodes, {seconds:.3} s", reasons.len());
        }
        self.events.pass_finished(name, self.model);
        Ok(reasons)
    }

    fn warn(&mut self, warning: &str) {
        self.report.warnings.push(warning.to_string());
    }

    /// Takes the layers behind the first `known` out of the report whose changes were not applied.
    fn forget_unapplied(&mut self, known: usize) {
        let quantized = self.model.graph.nodes().filter_map(|(_, node)| match &node.op {
            Op::QuantizedLinear(linear) | Op::QuantizedGather(linear) => Some(linear.layer.as_str()),
            _ => None,
        });
        let quantized: HashSet<&str> = quantized.collect();
        let mut added = self.report.layers.split_off(known);
        added.retain(|layer| quantized.contains(layer.layer.as_str()));
        self.report.layers.extend(added);
    }

    /// Whether the graph has layers to quantize.
    pub fn has_layers(&self) -> bool {
        self.model.graph.nodes().any(|(_, node)| matches!(node.op, Op::Linear(_)))
    }

    /// Whether a layer to quantize computes in this type.
    fn computes_in(&self, dtype: DataType) -> bool {
        let mut ops = self.model.graph.nodes().map(|(_, node)| &node.op);
        ops.any(|op| matches!(op, Op::Linear(linear) if linear.dtype == dtype))
    }

    /// The samples to calibrate on, which may be made by running the `source` model; none when no data is needed.
    fn samples(
        &mut self,
        source: &Model,
        data: Data,
        backend: Option<&dyn Backend>,
        state: Option<&State>,
    ) -> Result<Samples, Error> {
        let options = &self.compiler.options;
        let samples = match (options.method, backend, data) {
            (Method::Rtn, ..) | (_, None, _) => Samples::none(),
            (Method::Gptq, Some(_), Data::Given(data)) => given(source, data)?,
            (Method::Gptq, Some(backend), Data::OfOptions(input)) => {
                let step = if options.calibration.is_empty() {
                    "the model writes its own calibration text"
                } else {
                    "reading calibration data"
                };
                self.events.step(step);
                match samples(source, input, options, backend, state, self.events) {
                    Err(Error::Run(RunError::Backend(error))) => {
                        self.warn(&format!(
                            "the model cannot write its own calibration text ({error}): weights are rounded to \
                             nearest; give --calibration"
                        ));
                        Samples::none()
                    }
                    samples => samples?,
                }
            }
        };
        self.report.calibration = samples.origin.clone();
        Ok(samples)
    }
}
