//! `zqc MODEL -o OUT`: the main job.

use std::path::PathBuf;

use super::progress::Progress;
use super::report_file::ReportFile;
use super::signals::tell_of_state;
use super::{set_threads, table};
use crate::numerics::{ActivationFormat, FactorFormat, Order, ScaleConstraint, ScaleSearch, WeightFormat};
use crate::passes::{BranchMetric, HessianSource};
use crate::{Choice, Compiler, Emit, Error, Events, Head, Method, Options, Report, Target};
use clap::Args;
use clap::builder::{PathBufValueParser, PossibleValuesParser, TypedValueParser, ValueParser};
use regex::Regex;

const OUTPUT: &str = "Output";
const QUANTIZATION: &str = "Quantization";
const CALIBRATION: &str = "Calibration";
const RUNTIME: &str = "Runtime";

/// The main job.
#[derive(Args)]
pub struct Arguments {
    /// The ONNX model to compile, or a folder with one
    pub(super) model: Option<PathBuf>,

    /// Where the result goes: a file, or a folder where MODEL is one or with --emit cuda
    #[arg(short, long, help_heading = OUTPUT)]
    output: PathBuf,
    /// What the result is: an ONNX model, a folder of packed weights and CUDA kernels, or the textual form of the quantized
    /// graph
    #[arg(long, help_heading = OUTPUT, value_parser = choice::<Emit>(), default_value = "onnx")]
    emit: Emit,
    /// Target runtime of the ONNX model: stock ONNX Runtime 1.18 and later, with exact numbers, or importers that know ONNX's
    /// low-precision types
    #[arg(long, help_heading = OUTPUT, value_parser = choice::<Target>(), default_value = "portable")]
    target: Target,
    /// Writes the report: a page with plots to a .html file, the data to a .json file
    #[arg(long, help_heading = OUTPUT, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(ReportFile::new))]
    report: Option<ReportFile>,
    /// Prints the graph after a pass
    #[arg(long, help_heading = OUTPUT, value_name = "PASS", value_parser = PossibleValuesParser::new(Compiler::PASSES))]
    print_ir_after: Vec<String>,
    /// Skips the verification of the output, which is otherwise read back and run before it replaces anything
    #[arg(long, help_heading = OUTPUT)]
    no_verify: bool,
    /// Puts the weights into OUTPUT.data beside the model, which runtimes map into memory instead of reading it; else only
    /// those of 2 GB and more lie there, and those of a folder whose own do
    #[arg(long, help_heading = OUTPUT)]
    external_data: bool,
    /// Keeps no state beside the output, and takes none of a run that was stopped
    #[arg(long, help_heading = OUTPUT)]
    no_resume: bool,

    /// Number format of the weights; int4 has zero points, the others are symmetric
    #[arg(long, help_heading = QUANTIZATION, value_parser = choice::<WeightFormat>(), default_value = "fp4")]
    weights: WeightFormat,
    /// Number format of the activations
    #[arg(long, help_heading = QUANTIZATION, value_parser = activations(), default_value = "fp8")]
    activations: Activations,
    /// Weights along the input that share a scale; 0 for the whole row
    #[arg(long, help_heading = QUANTIZATION, default_value_t = 64)]
    group_size: usize,
    /// The language-model head and the table of the token embeddings, which a tied head shares: rounded with a scale for every
    /// entry (int8, with the head's activation in bfloat16, or fp8), or a table of int8 and a head that is solved as the other
    /// layers are (fp4) [default: int8; float with --target native or --emit cuda]
    #[arg(long, help_heading = QUANTIZATION, value_parser = choice::<Head>())]
    head: Option<Head>,
    /// How weights are solved
    #[arg(long, help_heading = QUANTIZATION, value_parser = choice::<Method>(), default_value = "gptq")]
    method: Method,
    /// The order in which GPTQ quantizes the columns
    #[arg(long, help_heading = QUANTIZATION, value_parser = choice::<Order>(), default_value = "activation")]
    order: Order,
    /// The constraint on the scales of a row: powers of two (m1), a row scale times powers of two (m2), or a row scale times
    /// powers of two times 1, 5/4 or 3/2 (m3); found by search or snapped [default: m3 for fp4, else none]
    #[arg(long, help_heading = QUANTIZATION, value_parser = choice::<ScaleConstraint>())]
    scale: Option<ScaleConstraint>,
    /// How a group's scale is found
    #[arg(long, help_heading = QUANTIZATION, value_parser = choice::<ScaleSearch>(), default_value = "hessian")]
    scale_search: ScaleSearch,
    /// The activations that Hessians are gathered from
    #[arg(long, help_heading = QUANTIZATION, value_parser = choice::<HessianSource>(), default_value = "quantized")]
    hessian: HessianSource,
    /// The share of the error left by earlier layers that a layer takes over, 0 to 1
    #[arg(long, help_heading = QUANTIZATION, value_parser = share, default_value = "0.5")]
    propagation: f64,
    /// Rank of the low-rank compensation; 0 for none [default: 8 for weights of 4 bits, else 0]
    #[arg(long, help_heading = QUANTIZATION, value_name = "RANK")]
    lorc_rank: Option<usize>,
    /// What the compensation repairs: the weight, or the output on the calibration data
    #[arg(long, help_heading = QUANTIZATION, value_parser = choice::<BranchMetric>(), default_value = "activation")]
    lorc: BranchMetric,
    /// Number format of the compensation
    #[arg(long, help_heading = QUANTIZATION, value_parser = choice::<FactorFormat>(), default_value = "fp8")]
    lorc_factors: FactorFormat,
    /// How often weight and compensation are solved in turn
    #[arg(long, help_heading = QUANTIZATION, value_name = "ROUNDS", value_parser = positive, default_value = "2")]
    lorc_rounds: usize,
    /// Layers to leave in float, by path, node or weight name
    #[arg(long, help_heading = QUANTIZATION, num_args = 1.., value_name = "REGEX")]
    pub(super) keep: Vec<String>,
    /// Quantize these layers and no others, the head included when it is named
    #[arg(long, help_heading = QUANTIZATION, num_args = 1.., value_name = "REGEX")]
    pub(super) only: Vec<String>,
    /// Quantizes again what is quantized already, where its weight is behind DequantizeLinear or in MatMulNBits; such weights
    /// are held in memory in float
    #[arg(long, help_heading = QUANTIZATION)]
    requantize: bool,

    /// Calibration data: .txt, .jsonl, .npz or .safetensors, see docs/calibration.md; without, the model writes its own text
    #[arg(long, help_heading = CALIBRATION, num_args = 1.., value_name = "FILE")]
    pub(super) calibration: Vec<PathBuf>,
    /// The model's tokenizer.json, for text [default: the one beside the model, or one folder above]
    #[arg(long, help_heading = CALIBRATION, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Calibration samples at most [default: 128; 16 of self-written text]
    #[arg(long, help_heading = CALIBRATION, value_parser = positive)]
    samples: Option<usize>,
    /// Tokens of a sample [default: 2048, or what the model takes; 512 of self-written text]
    #[arg(long, help_heading = CALIBRATION, value_parser = positive)]
    seq_len: Option<usize>,
    /// Token id that begins every sample
    #[arg(long, help_heading = CALIBRATION, value_name = "ID", value_parser = clap::value_parser!(i64).range(0..))]
    bos: Option<i64>,

    /// What runs the standard operators in calibration: rten, ort (ONNX Runtime), or auto: rten, and ort for what rten cannot
    #[arg(long, help_heading = RUNTIME, default_value = "auto", value_name = "NAME")]
    backend: String,
    /// Threads, at most one a core [default: one a core]
    #[arg(long, help_heading = RUNTIME, value_parser = threads)]
    pub threads: Option<usize>,
}

/// `Option` of its own: clap takes a bare one for an argument that may be left out.
#[derive(Clone, Copy)]
struct Activations(Option<ActivationFormat>);

fn activations() -> ValueParser {
    words::<Option<ActivationFormat>>().try_map(|word| of_word(&word).map(Activations)).into()
}

/// Takes the words of a choice.
fn choice<T: Choice>() -> ValueParser {
    words::<T>().try_map(|word| of_word::<T>(&word)).into()
}

fn words<T: Choice>() -> PossibleValuesParser {
    T::CHOICES.iter().map(|(word, _)| *word).into()
}

fn of_word<T: Choice>(word: &str) -> Result<T, String> {
    T::of_word(word).ok_or_else(|| format!("{word} is no choice"))
}

/// A number from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err("must be from 0 to 1".to_string()) }
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_string()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// A number of threads; more than any machine has cores is a slip of the keyboard.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    const MOST: usize = 1024;
    positive(text).and_then(|number| match number {
        0..=MOST => Ok(number),
        _ => Err(format!("must be at most {MOST}")),
    })
}

pub(super) fn run(mut arguments: Arguments) -> Result<(), Error> {
    set_threads(arguments.threads)?;
    let mut progress = Progress::new(std::mem::take(&mut arguments.print_ir_after));
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
        let options = Options {
            emit: arguments.emit,
            target: arguments.target,
            weights: arguments.weights,
            activations: arguments.activations.0,
            group_size: arguments.group_size,
            head: arguments.head,
            method: arguments.method,
            order: arguments.order,
            scale: arguments.scale,
            scale_search: arguments.scale_search,
            hessian: arguments.hessian,
            propagation: arguments.propagation,
            lorc_rank: arguments.lorc_rank,
            lorc: arguments.lorc,
            lorc_factors: arguments.lorc_factors,
            lorc_rounds: arguments.lorc_rounds,
            calibration: arguments.calibration,
            tokenizer: arguments.tokenizer,
            samples: arguments.samples,
            seq_len: arguments.seq_len,
            bos: arguments.bos,
            keep: expressions("--keep", &arguments.keep)?,
            only: expressions("--only", &arguments.only)?,
            requantize: arguments.requantize,
            backend: arguments.backend,
            threads: arguments.threads,
            verify: !arguments.no_verify,
            external_data: arguments.external_data,
            resume: !arguments.no_resume,
        };
        let compiler = Compiler::new(options);
        Ok(Self { model, output: arguments.output, report: arguments.report, compiler })
    }
}

/// The regular expressions that are the values of an option.
fn expressions(option: &str, texts: &[String]) -> Result<Vec<Regex>, Error> {
    let expression =
        |text: &String| Regex::new(text).map_err(|error| Error::Usage(format!("{option} {text:?}: {error}")));
    texts.iter().map(expression).collect()
}
