//! The whole chain, from file to file or in memory.

mod events;
mod recorder;
mod run;
mod subgraphs;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use zqc_ir::Model;
use zqc_ir::onnx::WriteError;
use zqc_passes::PassError;
use zqc_runtime::{Backend, BackendError, Sample, available_backends};

use crate::error::Error;
use crate::growth;
use crate::memory::{PrivateMemory, peak};
use crate::model_folder::find_model;
use crate::options::{Emit, Method, Options};
use crate::pipeline::Pipeline;
use crate::report::Report;
use crate::resume::State;
use crate::target::{Target, Writer, Written};
use run::{Quantized, Run, is_lowered};

pub use events::Events;

/// Where calibration samples come from.
enum Data<'a> {
    /// What the options name, or text that the model writes itself; beside the model in this file.
    OfOptions(Option<&'a Path>),
    /// Inputs by name, one entry a sample.
    Given(Vec<Sample>),
}

/// Compiles models with one set of options.
pub struct Compiler {
    options: Options,
    target: Box<dyn Target>,
    pipeline: Pipeline,
    /// That of the caller; else the options name one.
    backend: Option<Arc<dyn Backend>>,
}

impl Compiler {
    /// A compiler with these options and the passes that follow from them.
    pub fn new(options: Options) -> Self {
        let target = options.target();
        Self::for_target(options, target)
    }

    /// A compiler for a target of one's own, whatever the options say of it.
    pub fn for_target(options: Options, target: Box<dyn Target>) -> Self {
        let pipeline = Pipeline::for_target(&options, target.as_ref());
        Self { options, target, pipeline, backend: None }
    }

    /// Runs the standard operators on a back end of one's own, whatever the options say of it.
    pub fn with_backend(mut self, backend: Arc<dyn Backend>) -> Self {
        self.options.backend = backend.name().to_string();
        self.backend = Some(backend);
        self
    }

    /// The passes, in order.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The passes, to be changed.
    pub fn pipeline_mut(&mut self) -> &mut Pipeline {
        &mut self.pipeline
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
        self.check()?;
        let writer = self.target.writer(input, output, &self.options)?;
        let input_file = find_model(input)?;
        let mut model = zqc_ir::read(&input_file)?;
        let mut report = Report {
            model: input.display().to_string(),
            output: output.display().to_string(),
            ..self.report()
        };
        report.totals.file_bytes_before = model.source_bytes;
        let state = self.keeps_state().then(|| State::new(output, &model, &self.options, &self.pipeline));
        let state = state.transpose()?;
        let source = model.clone();
        let data = Data::OfOptions(Some(&input_file));
        let mut run = Run::new(self, &mut model, &mut report, events);
        let result = run.quantize(data, state.as_ref());
        if let Some(state) = &state {
            let (stages, notes) = state.outcome();
            run.report.resumed_stages = stages;
            run.report.warnings.extend(notes);
        }
        let result = result.and_then(|quantized| {
            let bytes = self.emit(&mut run, &source, &quantized, writer.as_ref())?;
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
        report.companions = writer.companions().iter().map(|file| file.display().to_string()).collect();
        if self.options.emit == Emit::Onnx {
            report.warnings.extend(growth::warning(&report.totals, &weights, &model.graph));
        }
        report.totals.seconds = started.elapsed().as_secs_f64();
        report.totals.peak_memory_bytes = peak();
        report.totals.peak_private_bytes = memory.peak();
        Ok(report)
    }

    /// Compiles a model in memory: the model as the target lowers it, and the report. Weights are calibrated on `samples`, inputs of
    /// the model by name, in which positions and masks may be left out; without any, on what the options name.
    ///
    /// # Errors
    /// When the model or the samples cannot be used.
    pub fn compile_model(
        &self,
        model: Model,
        samples: impl IntoIterator<Item = Sample>,
    ) -> Result<(Model, Report), Error> {
        self.compile_model_with(model, samples, &mut zqc_passes::Silent)
    }

    /// As [`Compiler::compile_model`], telling `events` how it goes.
    ///
    /// # Errors
    /// As [`Compiler::compile_model`].
    pub fn compile_model_with(
        &self,
        mut model: Model,
        samples: impl IntoIterator<Item = Sample>,
        events: &mut dyn Events,
    ) -> Result<(Model, Report), Error> {
        let started = Instant::now();
        self.check()?;
        let mut report = self.report();
        let samples: Vec<Sample> = samples.into_iter().collect();
        let data = if samples.is_empty() { Data::OfOptions(None) } else { Data::Given(samples) };
        let mut run = Run::new(self, &mut model, &mut report, events);
        run.quantize(data, None)?;
        run.lower()?;
        report.totals.seconds = started.elapsed().as_secs_f64();
        Ok((model, report))
    }

    /// Checks that the choices go together.
    fn check(&self) -> Result<(), Error> {
        let name = &self.options.backend;
        if self.backend.is_none() && !available_backends().contains(&name.as_str()) {
            return Err(BackendError::UnknownBackend { name: name.clone() }.into());
        }
        self.options.check(self.target.as_ref())
    }

    /// A report with nothing in it yet.
    fn report(&self) -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION").to_string(),
            options: self.options.in_words(self.target.as_ref()),
            ..Report::default()
        }
    }

    /// Lowers and writes the quantized model of `run`, made of `source`; the size of the files.
    fn emit(
        &self,
        run: &mut Run,
        source: &Model,
        Quantized { sample, .. }: &Quantized,
        writer: &dyn Writer,
    ) -> Result<u64, Error> {
        let options = &self.options;
        let quantized = options.verify.then(|| run.model.clone());
        run.lower()?;
        let Run { model, report, events, .. } = run;
        events.step(writer.step());
        let has_layers =
            !report.layers.is_empty() || quantized.as_ref().is_some_and(|model| !is_lowered(&model.graph));
        writer.write(model, &mut |path| {
            let Some(quantized) = &quantized else { return Ok(()) };
            events.step("verifying");
            let sample = sample.as_ref();
            let backend = self.backend.as_ref();
            let written = Written { options, backend, source, quantized, lowered: model, has_layers, sample };
            let verification = self.target.verify(path, &written)?;
            report.verification = verification.words;
            report.note_library(verification.library);
            Ok(())
        })
    }
}
