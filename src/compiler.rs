//! The whole chain, from file to file.

mod recorder;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use zqc_ir::onnx::{Storage, WriteError};
use zqc_ir::tensor::DataType;
use zqc_ir::{Model, Op, onnx};
use zqc_kernels::EmitError;
use zqc_passes::{
    Calibration, Checkpoints, LowerNative, LowerPortable, Method as Solver, Observer, Pass, PassError,
    QuantizeActivations, ShareConstants, ShareOperands, SolveWeights, SolvedWeights, UpgradeOpset, run,
    weights_of_layers,
};
use zqc_runtime::{Array, Backend, RunError, backend};

use crate::bodies;
use crate::calibration::{Samples, samples};
use crate::error::Error;
use crate::growth;
use crate::memory::{PrivateMemory, peak};
use crate::model_folder::{Destination, find_model};
use crate::options::{Emit, Method, Options, Target};
use crate::raise::raise;
use crate::report::Report;
use crate::resume::State;
use crate::verify::{Inputs, verify};
use recorder::Recorder;

/// The least opset whose `Cast` knows FP8.
const PORTABLE_OPSET: i64 = 19;

/// Hears how a compilation goes on, besides what the passes tell.
pub trait Events: Observer {
    /// A pass has run; `model` is what it left.
    fn pass_finished(&mut self, _pass: &str, _model: &Model) {}

    /// A step that takes long begins.
    fn step(&mut self, _what: &str) {}

    /// `done` of the `count` parts of the step are done.
    fn step_advanced(&mut self, _done: usize, _count: usize) {}

    /// Calibration text is read with this tokenizer, which no option names.
    fn tokenizer_found(&mut self, _path: &Path) {}
}

impl Events for zqc_passes::Silent {}

/// What is kept of quantizing.
#[derive(Default)]
struct Quantized {
    /// The names of the constants that the layers were made of.
    weights: HashSet<String>,
    /// The first calibration sample.
    sample: Option<Inputs>,
}

/// What an output is checked against.
struct Reference<'a> {
    source: &'a Model,
    sample: Option<Inputs>,
}

/// Compiles models with one set of options.
pub struct Compiler {
    options: Options,
    skipped: Vec<&'static str>,
    extra: Vec<(&'static str, Box<dyn Pass>)>,
}

impl Compiler {
    /// The names of the built-in passes, in order; the target chooses how they are lowered.
    pub const PASSES: [&'static str; 17] = [
        "raise_portable",
        "inline_functions",
        "expand_attention",
        "expand_moe",
        "expand_fused",
        "expand_einsum",
        "split_experts",
        "canonicalize",
        "select",
        "quantize_head",
        "quantize_activations",
        "solve_weights",
        "share_constants",
        "upgrade_opset",
        "lower_portable",
        "lower_native",
        "share_operands",
    ];

    /// A compiler with these options and the built-in passes.
    pub fn new(options: Options) -> Self {
        Self { options, skipped: Vec::new(), extra: Vec::new() }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Leaves out the built-in pass of this name.
    ///
    /// # Errors
    /// [`Error::UnknownPass`].
    pub fn skip(mut self, pass: &str) -> Result<Self, Error> {
        self.skipped.push(built_in(pass)?);
        Ok(self)
    }

    /// Runs a pass of one's own right after the built-in pass `after`, or in its place where that is skipped.
    ///
    /// # Errors
    /// [`Error::UnknownPass`].
    pub fn add_after(mut self, after: &str, pass: Box<dyn Pass>) -> Result<Self, Error> {
        self.extra.push((built_in(after)?, pass));
        Ok(self)
    }

    /// Where the compilation to `output` keeps its state, for the same compilation to go on after it was stopped; `None` when it
    /// keeps none.
    pub fn state_folder(&self, output: &Path) -> Option<PathBuf> {
        self.keeps_state().then(|| State::folder(output))
    }

    fn keeps_state(&self) -> bool {
        self.options.resume && self.options.method == Method::Gptq
    }

    /// Compiles the model in the file `input` to the file `output`, or a folder with a model in it to another with all that goes
    /// along, such as tokenizer and configuration.
    ///
    /// # Errors
    /// When the model or the data cannot be used or the output not be written; `output` is then as it was before.
    pub fn compile(&self, input: &Path, output: &Path) -> Result<Report, Error> {
        self.compile_with(input, output, &mut zqc_passes::Silent)
    }

    /// As [`Compiler::compile`], telling `events` how it goes.
    ///
    /// # Errors
    /// As [`Compiler::compile`].
    pub fn compile_with(
        &self,
        input: &Path,
        output: &Path,
        events: &mut dyn Events,
    ) -> Result<Report, Error> {
        let (started, memory) = (Instant::now(), PrivateMemory::watch());
        self.options.check()?;
        let destination = self.destination(input, output)?;
        let input_file = find_model(input)?;
        let mut model = onnx::read(&input_file)?;
        let mut report = Report {
            version: env!("CARGO_PKG_VERSION").to_string(),
            model: input.display().to_string(),
            output: output.display().to_string(),
            options: self.options.in_words(),
            ..Default::default()
        };
        report.totals.file_bytes_before = model.source_bytes;
        let state = self.state(&model, output)?;
        let source = model.clone();
        let result = self.quantize_from(&mut model, Some(&input_file), state.as_ref(), &mut report, events);
        if let Some(state) = &state {
            let (stages, notes) = state.outcome();
            report.resumed_stages = stages;
            report.warnings.extend(notes);
        }
        let result = result.and_then(|quantized| {
            let reference = Reference { source: &source, sample: quantized.sample };
            let bytes = self.emit(&mut model, reference, (&destination, output), &mut report, events)?;
            Ok((bytes, quantized.weights))
        });
        match &result {
            Ok(_) => State::remove(output),
            // Whoever stopped the run may want the rest later.
            Err(Error::Pass(PassError::Stopped)) => {}
            // What cannot be written now perhaps can be later.
            Err(Error::Write(
                WriteError::Io { .. } | WriteError::Directory { .. } | WriteError::NotRegular { .. },
            )) => {}
            Err(Error::Folder(_)) => {}
            // Whatever else is wrong is so the next time too; what an earlier run solved may be of another command.
            Err(_) if state.is_some_and(|state| state.has_stored()) => State::remove(output),
            Err(_) => {}
        }
        let (bytes, weights) = result?;
        report.totals.file_bytes_after = bytes;
        if self.options.emit == Emit::Onnx {
            report.warnings.extend(growth::warning(&report.totals, &weights, &model.graph));
        }
        report.totals.seconds = started.elapsed().as_secs_f64();
        report.totals.peak_memory_bytes = peak();
        report.totals.peak_private_bytes = memory.peak();
        Ok(report)
    }

    /// Where the result goes; finds out, before any work is spent, whether it can be written there.
    fn destination(&self, input: &Path, output: &Path) -> Result<Destination, Error> {
        let destination = match self.options.emit {
            Emit::Onnx => Destination::of(input, output, self.options.external_data)?,
            Emit::Cuda | Emit::Ir => Destination::File(output.to_path_buf(), Storage::Auto),
        };
        match self.options.emit {
            Emit::Cuda => zqc_kernels::check_writable(output)?,
            Emit::Onnx | Emit::Ir => destination.check_writable().map_err(|error| match error {
                Error::Write(WriteError::Directory { path }) => Error::Directory { path },
                other => other,
            })?,
        }
        Ok(destination)
    }

    /// The state of an earlier run and of this one, where there are stages to keep.
    fn state(&self, model: &Model, output: &Path) -> Result<Option<State>, Error> {
        if !self.keeps_state() {
            return Ok(None);
        }
        let extra = self.extra.iter().flat_map(|(after, pass)| [*after, pass.name()]);
        let passes: Vec<&str> = self.skipped.iter().copied().chain(extra).collect();
        Ok(Some(State::new(output, model, &self.options, &passes)?))
    }

    /// Writes what the quantized model, made of `source`, becomes, which is verified on `sample` if there is one; the size of the files.
    fn emit(
        &self,
        model: &mut Model,
        reference: Reference,
        (destination, output): (&Destination, &Path),
        report: &mut Report,
        events: &mut dyn Events,
    ) -> Result<u64, Error> {
        match self.options.emit {
            Emit::Onnx => {}
            Emit::Ir => {
                let text = model.to_string();
                onnx::write_file(output, text.as_bytes())?;
                return Ok(text.len() as u64);
            }
            Emit::Cuda => {
                events.step("packing");
                let staged = zqc_kernels::stage(&model.graph, output)?;
                if self.options.verify {
                    events.step("verifying");
                    let package = zqc_kernels::Package::open(staged.path());
                    package.map_err(|source| Error::Verify { source: source.into() })?;
                    report.verification = "the package reads back whole".to_string();
                }
                return Ok(staged.commit().map_err(EmitError::from)?);
            }
        }
        let quantized = self.options.verify.then(|| model.clone());
        self.lower(model, report, events)?;
        events.step("writing");
        let size = destination.write(model, |path| {
            let Some(quantized) = quantized else { return Ok(()) };
            events.step("verifying");
            let runs = !report.layers.is_empty() && self.options.target == Target::Portable;
            let backend = runs.then(|| backend(&self.options.backend, self.options.threads)).transpose()?;
            let Reference { source, sample } = &reference;
            report.verification =
                verify(path, source, model, quantized, backend.as_deref(), sample.as_ref())?;
            report.note_library(backend.and_then(|backend| backend.used_library()));
            Ok(())
        })?;
        let names = destination.companions().iter().map(|file| file.display().to_string());
        report.companions = names.collect();
        Ok(size)
    }

    /// Runs the passes up to the lowering: the quantized graph in its canonical form.
    ///
    /// # Errors
    /// When the model or the data cannot be used.
    pub fn quantize(
        &self,
        model: &mut Model,
        report: &mut Report,
        events: &mut dyn Events,
    ) -> Result<(), Error> {
        self.quantize_from(model, None, None, report, events).map(drop)
    }

    /// As [`Compiler::quantize`], of the model in the file `input`.
    fn quantize_from(
        &self,
        model: &mut Model,
        input: Option<&Path>,
        state: Option<&State>,
        report: &mut Report,
        events: &mut dyn Events,
    ) -> Result<Quantized, Error> {
        let options = &self.options;
        let source = model.clone();
        let mut steps = Steps { compiler: self, model, report, events };
        steps.find_layers(false)?;
        if options.head.is_some_and(|head| head != options.head()) {
            let warning = "the head and the table of the tokens stay in float: only a portable ONNX model holds a table of codes";
            steps.report.warnings.push(warning.to_string());
        }
        if steps.computes_in(DataType::Bfloat16) {
            let warning = "the model computes in bfloat16, and so will what comes of it: ONNX Runtime's CPU provider runs neither";
            steps.report.warnings.push(warning.to_string());
        }
        let in_bodies = bodies::hold_layers(steps.model, self);
        if in_bodies && !options.lowers_bodies() {
            let warning = "the layers in the bodies of If, Loop and Scan stay in float: only a portable ONNX model holds them";
            steps.report.warnings.push(warning.to_string());
        }
        let in_bodies = in_bodies && options.lowers_bodies();
        if !steps.has_layers() && !in_bodies {
            *steps.model = source;
            let warning = match options.emit {
                Emit::Cuda => "no linear layer is left to quantize: the package is empty",
                Emit::Onnx | Emit::Ir => {
                    "no linear layer is left to quantize: the output is the model as it came"
                }
            };
            steps.report.warnings.push(warning.to_string());
            return Ok(Quantized::default());
        }
        let weights = weights_of_layers(&steps.model.graph).map_err(PassError::from)?;
        let backend = backend(&options.backend, options.threads)?;
        let mut raised = source;
        raise(&mut raised)?;
        let samples = steps.samples(&raised, input, backend.as_ref(), state)?;
        state.into_iter().for_each(|state| state.set_samples(&samples.inputs));
        let mut solved = SolvedWeights::default();
        if steps.has_layers() {
            let float = in_bodies.then(|| steps.model.graph.clone());
            let quantized = steps.quantize_layers(&samples.inputs, backend.as_ref(), state);
            quantized.map_err(|error| samples.named(error))?;
            if let (Some(float), graph) = (float, &steps.model.graph) {
                // Bodies are lowered before the graph around them: until then their operands lie in another way.
                solved.learn(&float, graph, |name| graph.fresh_name(name));
            }
        }
        steps.run(&ShareConstants)?;
        if in_bodies {
            steps.run(&UpgradeOpset { to: PORTABLE_OPSET })?;
            steps.bodies(&samples.inputs, backend.as_ref(), &mut solved)?;
        }
        report.note_library(backend.used_library());
        report.add_up();
        Ok(Quantized { weights, sample: samples.inputs.into_iter().next() })
    }

    /// Makes an ONNX model of the quantized graph again, if anything was quantized.
    pub(crate) fn lower(
        &self,
        model: &mut Model,
        report: &mut Report,
        events: &mut dyn Events,
    ) -> Result<(), Error> {
        if report.layers.is_empty() {
            return Ok(());
        }
        let mut steps = Steps { compiler: self, model, report, events };
        let (opset, lower): (i64, &dyn Pass) = match self.options.target {
            Target::Portable => (PORTABLE_OPSET, &LowerPortable { at_once: false }),
            Target::Native => (LowerNative::least_opset(&steps.model.graph), &LowerNative),
        };
        steps.run(&UpgradeOpset { to: opset })?;
        steps.run(lower)?;
        steps.run(&ShareOperands)
    }
}

/// A compilation under way.
pub(crate) struct Steps<'a> {
    pub compiler: &'a Compiler,
    pub model: &'a mut Model,
    pub report: &'a mut Report,
    pub events: &'a mut dyn Events,
}

/// The built-in pass of this name.
fn built_in(name: &str) -> Result<&'static str, Error> {
    let known = Compiler::PASSES.into_iter().find(|pass| *pass == name);
    known.ok_or_else(|| Error::UnknownPass { name: name.to_string(), known: &Compiler::PASSES })
}

impl Steps<'_> {
    /// Runs the passes that find the layers to quantize.
    pub(crate) fn find_layers(&mut self, in_body: bool) -> Result<(), Error> {
        self.compiler.options.finders(in_body).iter().try_for_each(|pass| self.run(pass.as_ref()))
    }

    /// Whether the main graph has layers to quantize.
    pub(crate) fn has_layers(&self) -> bool {
        self.model.graph.nodes().any(|(_, node)| matches!(node.op, Op::Linear(_)))
    }

    /// Whether a layer to quantize in the main graph computes in this type.
    fn computes_in(&self, dtype: DataType) -> bool {
        self.model
            .graph
            .nodes()
            .any(|(_, node)| matches!(&node.op, Op::Linear(linear) if linear.dtype == dtype))
    }

    /// Quantizes the layers of the main graph, on calibration samples if there are any.
    fn quantize_layers(
        &mut self,
        samples: &[Vec<(String, Array)>],
        backend: &dyn Backend,
        state: Option<&State>,
    ) -> Result<(), Error> {
        if let Some(pass) = self.compiler.options.quantize_head() {
            self.run(&pass)?;
        }
        self.quantize_activations()?;
        self.solve(samples, backend, state)
    }

    pub(crate) fn quantize_activations(&mut self) -> Result<(), Error> {
        match self.compiler.options.activations {
            Some(format) => self.run(&QuantizeActivations { format }),
            None => Ok(()),
        }
    }

    /// Solves the weights by the method of the options, or rounds them when there are no samples.
    pub(crate) fn solve(
        &mut self,
        samples: &[Vec<(String, Array)>],
        backend: &dyn Backend,
        state: Option<&State>,
    ) -> Result<(), Error> {
        let options = &self.compiler.options;
        let method = match options.method {
            Method::Gptq if !samples.is_empty() => Solver::Gptq(Calibration {
                backend,
                samples,
                hessian: options.hessian,
                propagation: options.propagation,
                checkpoints: state.map(|state| state as &dyn Checkpoints),
            }),
            _ => Solver::Rtn,
        };
        self.run(&SolveWeights { recipe: options.recipe(), method })
    }

    pub(crate) fn run(&mut self, pass: &dyn Pass) -> Result<(), Error> {
        let compiler = self.compiler;
        if !compiler.skipped.contains(&pass.name()) {
            self.apply(pass)?;
        }
        let extra = compiler.extra.iter().filter(|(after, _)| *after == pass.name());
        extra.map(|(_, pass)| pass).try_for_each(|pass| self.apply(pass.as_ref()))
    }

    fn apply(&mut self, pass: &dyn Pass) -> Result<(), Error> {
        let mut recorder = Recorder::new(self.report, self.events);
        run(pass, self.model, &mut recorder)?;
        recorder.finish_stage();
        self.events.pass_finished(pass.name(), self.model);
        Ok(())
    }

    /// The samples to calibrate on, which may be made by running the `source` model, of the file `input`; none when no data is
    /// needed.
    fn samples(
        &mut self,
        source: &Model,
        input: Option<&Path>,
        backend: &dyn Backend,
        state: Option<&State>,
    ) -> Result<Samples, Error> {
        let options = &self.compiler.options;
        let samples = match options.method {
            Method::Rtn => Samples::none(),
            Method::Gptq => {
                let step = if options.calibration.is_empty() {
                    "the model writes its own calibration text"
                } else {
                    "reading calibration data"
                };
                self.events.step(step);
                match samples(source, input, options, backend, state, self.events) {
                    Err(Error::Run(RunError::Backend(error))) => {
                        let warning = format!(
                            "the model cannot write its own calibration text ({error}): weights are rounded to \
                             nearest; give --calibration"
                        );
                        self.report.warnings.push(warning);
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
