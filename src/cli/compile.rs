//! `zqc MODEL -o OUT`: the main job.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use regex::Regex;
use zqc::numerics::Format;
use zqc::{Compiler, Error, Method, Options};

use super::progress::Progress;
use super::{json, set_threads, table, write_text};

/// The main job.
#[derive(Args)]
pub(super) struct Arguments {
    /// The ONNX model to compile
    model: PathBuf,
    /// Where the result goes
    #[arg(short, long)]
    output: PathBuf,
    /// What the result is: an ONNX model, or the textual form of the quantized graph
    #[arg(long, value_enum, default_value_t = Emit::Onnx)]
    emit: Emit,
    /// Who is to read the ONNX model: stock ONNX Runtime 1.18 and later, with exact numbers
    #[arg(long, value_enum, default_value_t = Target::Portable)]
    target: Target,
    /// Number format of the weights
    #[arg(long, value_enum, default_value_t = Weights::Fp4)]
    weights: Weights,
    /// Weights along the input that share a scale; 0 for the whole row
    #[arg(long, default_value_t = 128)]
    group_size: usize,
    /// How weights are solved
    #[arg(long, value_enum, default_value_t = Solve::Gptq)]
    method: Solve,
    /// The order in which GPTQ quantizes the columns
    #[arg(long, value_enum, default_value_t = Order::Activation)]
    order: Order,
    /// The power-of-two constraint on the scales
    #[arg(long, value_enum, default_value_t = Scale::None)]
    scale: Scale,
    /// How a group's scale is found
    #[arg(long, value_enum, default_value_t = ScaleSearch::Hessian)]
    scale_search: ScaleSearch,
    /// Rank of the low-rank compensation; 0 for none, all that this version has
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=0))]
    lorc_rank: u64,
    /// Number format of the activations
    #[arg(long, value_enum, default_value_t = Activations::Fp8)]
    activations: Activations,
    /// Calibration data: .txt (with --tokenizer), .jsonl, .npz or .safetensors; without, the model writes its own text
    #[arg(long, num_args = 1.., value_name = "FILE")]
    calibration: Vec<PathBuf>,
    /// The model's tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Calibration samples at most [default: 128; 16 of self-written text]
    #[arg(long, value_parser = positive)]
    samples: Option<usize>,
    /// Tokens of a sample [default: 2048; 512 of self-written text]
    #[arg(long, value_parser = positive)]
    seq_len: Option<usize>,
    /// Token id that begins every sample
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(0..))]
    bos: Option<i64>,
    /// Layers to leave in float, by path, node or weight name
    #[arg(long, num_args = 1.., value_name = "REGEX")]
    keep: Vec<Regex>,
    /// Quantize these layers and no others, the head included when it is named
    #[arg(long, num_args = 1.., value_name = "REGEX")]
    only: Vec<Regex>,
    /// What runs the standard operators in calibration
    #[arg(long, default_value = "rten", value_name = "NAME")]
    backend: String,
    /// Threads [default: one a core]
    #[arg(long, value_parser = threads)]
    threads: Option<usize>,
    /// Writes the report to a .json file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Prints the graph after a pass
    #[arg(long, value_name = "PASS", value_parser = clap::builder::PossibleValuesParser::new(Compiler::PASSES))]
    print_ir_after: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Emit {
    Onnx,
    Ir,
}

#[derive(Clone, Copy, ValueEnum)]
enum Target {
    Portable,
}

#[derive(Clone, Copy, ValueEnum)]
enum Weights {
    Fp4,
}

#[derive(Clone, Copy, ValueEnum)]
enum Solve {
    Gptq,
    Rtn,
}

#[derive(Clone, Copy, ValueEnum)]
enum Order {
    Natural,
    Activation,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scale {
    None,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScaleSearch {
    Max,
    Mse,
    Hessian,
}

#[derive(Clone, Copy, ValueEnum)]
enum Activations {
    Fp8,
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

pub(super) fn run(arguments: Arguments) -> Result<(), Error> {
    set_threads(arguments.threads)?;
    if let Some(path) = &arguments.report {
        if path.extension() != Some("json".as_ref()) {
            return Err(Error::Usage(format!("--report {}: the report is written as .json", path.display())));
        }
        zqc::ir::onnx::check_writable(path)?;
    }
    let options = Options {
        emit: match arguments.emit {
            Emit::Onnx => zqc::Emit::Onnx,
            Emit::Ir => zqc::Emit::Ir,
        },
        weights: match arguments.weights {
            Weights::Fp4 => Format::E2M1,
        },
        activations: match arguments.activations {
            Activations::Fp8 => Format::E4M3,
        },
        group_size: arguments.group_size,
        method: match arguments.method {
            Solve::Gptq => Method::Gptq,
            Solve::Rtn => Method::Rtn,
        },
        order: match arguments.order {
            Order::Natural => zqc::Order::Natural,
            Order::Activation => zqc::Order::Activation,
        },
        scale_search: match arguments.scale_search {
            ScaleSearch::Max => zqc::ScaleSearch::Max,
            ScaleSearch::Mse => zqc::ScaleSearch::Mse,
            ScaleSearch::Hessian => zqc::ScaleSearch::Hessian,
        },
        calibration: arguments.calibration,
        tokenizer: arguments.tokenizer,
        samples: arguments.samples,
        seq_len: arguments.seq_len,
        bos: arguments.bos,
        keep: arguments.keep,
        only: arguments.only,
        backend: arguments.backend,
        threads: arguments.threads,
    };
    let compiler = Compiler::new(options);
    let mut progress = Progress::new(arguments.print_ir_after);
    let report = compiler.compile_with(&arguments.model, &arguments.output, &mut progress)?;
    progress.finish()?;
    table::print_report(&report);
    match &arguments.report {
        Some(path) => write_text(path, &json(&report)?),
        None => Ok(()),
    }
}
