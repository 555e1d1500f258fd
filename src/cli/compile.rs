//! `zqc MODEL -o OUT`: the main job.

use std::path::PathBuf;

use super::progress::Progress;
use super::report_file::ReportFile;
use super::signals::tell_of_state;
use super::{log, set_threads, table};
use crate::{Compiler, Error, Events, Options, Pipeline, Report, StopAfter};
use clap::Args;
use clap::builder::{PathBufValueParser, PossibleValuesParser, TypedValueParser};

const OUTPUT: &str = "Output";
const DEBUGGING: &str = "Debugging";

/// The main job.
#[derive(Args)]
#[group(id = "compile")]
pub struct Arguments {
    /// The model to compile: an ONNX file, a folder with one, or text of a .zir file that --emit ir wrote
    pub(super) model: Option<PathBuf>,

    /// Where the result goes: a file, or a folder where MODEL is one or with --emit cuda
    // Clap takes the arguments for absent unless one of them is in the group: it fills none that has other arguments flattened in.
    #[arg(short, long, help_heading = OUTPUT, group = "compile")]
    output: PathBuf,
    /// The choices of the compilation
    #[command(flatten)]
    pub options: Options,
    /// Writes the report: a page with plots to a .html file, the data to a .json file
    #[arg(long, help_heading = OUTPUT, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(ReportFile::new))]
    report: Option<ReportFile>,
    /// Prints the graph after a pass
    #[arg(long, help_heading = DEBUGGING, value_name = "PASS", value_parser = PossibleValuesParser::new(Pipeline::all_names()))]
    print_ir_after: Vec<String>,
    /// Makes no change to the graph after a pass, or after the first N of its changes, or of all: layers that are not
    /// quantized by then stay in float. --verbose numbers the changes
    #[arg(long, help_heading = DEBUGGING, value_name = "PASS[:N]|N")]
    stop_after: Option<StopAfter>,
    /// Says what every pass changes, and why
    #[arg(short, long, help_heading = DEBUGGING)]
    verbose: bool,
}

pub(super) fn run(mut arguments: Arguments) -> Result<(), Error> {
    set_threads(arguments.options.threads)?;
    if arguments.verbose {
        log::to_standard_error();
    }
    let mut progress = Progress::new(std::mem::take(&mut arguments.print_ir_after), arguments.verbose);
    let compilation = Compilation::try_from(arguments)?;
    compilation.state_folder().into_iter().for_each(tell_of_state);
    let report = compilation.run(&mut progress)?;
    progress.finish()?;
    table::print_report(&report);
    Ok(())
}

/// A compilation that is to be run.
pub struct Compilation {
    model: PathBuf,
    output: PathBuf,
    report: Option<ReportFile>,
    compiler: Compiler,
}

impl Compilation {
    /// As [`Compiler::state_folder`].
    pub fn state_folder(&self) -> Option<PathBuf> {
        self.compiler.state_folder(&self.output)
    }

    /// Compiles, and writes the report where one is asked for.
    ///
    /// # Errors
    /// As [`Compiler::compile_with`], and when the report cannot be written.
    pub fn run(self, events: &mut dyn Events) -> Result<Report, Error> {
        self.report.as_ref().map_or(Ok(()), ReportFile::check_writable)?;
        let report = self.compiler.compile_with(&self.model, &self.output, events)?;
        self.report.map_or(Ok(()), |file| file.write(&report))?;
        Ok(report)
    }
}

impl TryFrom<Arguments> for Compilation {
    type Error = Error;

    fn try_from(arguments: Arguments) -> Result<Self, Error> {
        let model =
            arguments.model.ok_or_else(|| Error::Usage("name a model; see zqc --help".to_string()))?;
        if arguments.output.as_os_str() == "-" {
            let reason = "the output is a file, which replaces another only when it is whole";
            return Err(Error::Usage(format!("-o -: {reason}; for a file of that name use -o ./-")));
        }
        if arguments.report.as_ref().is_some_and(|report| report.is_at(&arguments.output)) {
            return Err(Error::Usage("--report: this file is the output; name another".to_string()));
        }
        let in_place = model
            .canonicalize()
            .is_ok_and(|model| arguments.output.canonicalize().is_ok_and(|to| to == model));
        if !in_place && arguments.report.as_ref().is_some_and(|report| report.is_below(&arguments.output)) {
            let reason = "it lies in the output, a folder that is replaced as a whole; name a file out of it";
            return Err(Error::Usage(format!("--report: {reason}")));
        }
        let mut compiler = Compiler::new(arguments.options);
        if let Some(place) = arguments.stop_after {
            compiler.pipeline_mut().stop_after(place)?;
        }
        Ok(Self { model, output: arguments.output, report: arguments.report, compiler })
    }
}
