//! The command line: arguments, commands and exit codes. [`main`] is the program; [`parse`] reads the arguments of one command,
//! for a program that has zqc in it and options by the same names.

#[macro_use]
mod say;

mod allocator;
mod compile;
mod end;
mod evaluate;
mod inspect;
mod log;
mod model_argument;
mod panics;
mod progress;
mod report_file;
mod signals;
mod table;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::Error;
use crate::runtime::useful_threads;

pub use allocator::OrExit;
pub use compile::{Arguments as CompileArguments, Compilation};
pub use evaluate::Arguments as EvaluateArguments;
pub use panics::collect as collect_panics;

/// Exit code of input that cannot be used.
const BAD_INPUT: u8 = 3;
/// Exit code of faults that are not the user's.
const INTERNAL: u8 = 5;

/// Compiles ONNX language models to W4A8 floating point: FP4 weights, token-wise FP8 activations.
#[derive(Parser)]
#[command(
    name = "zqc",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "zqc <MODEL> --output <OUTPUT> [OPTIONS]\n       zqc <COMMAND>"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    compile: Option<compile::Arguments>,
}

#[derive(Subcommand)]
enum Command {
    /// Perplexity of a model on a text (GPTQ protocol)
    Eval(evaluate::Arguments),
    /// Every linear layer of a model or a CUDA package: where, shape, format, bits per weight
    Inspect(inspect::Arguments),
}

/// Runs the command that the arguments name, the first of which is the program; its exit code. Ends the process when they are not
/// understood, or ask for help. Signals and panics are handled as a program does from now on.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = cli(arguments);
    let last_panic = panics::collect();
    match std::panic::catch_unwind(|| run(cli)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            say!("error: {error}");
            error.exit_code()
        }
        Err(_) => {
            say!("error: internal fault, please report it: {}", last_panic());
            INTERNAL
        }
    }
}

/// The arguments of the command `T`, without the program's name.
///
/// # Errors
/// [`Error::Usage`] when they are not understood.
pub fn parse<T: Args>(arguments: impl IntoIterator<Item = OsString>) -> Result<T, Error> {
    let matches = command::<T>().no_binary_name(true).try_get_matches_from(arguments);
    matches.and_then(|matches| T::from_arg_matches(&matches)).map_err(|error| {
        let message = error.to_string();
        let reason = message.split("\n\nUsage:").next().and_then(|text| text.split("\n\nFor more").next());
        Error::Usage(reason.unwrap_or_default().trim_start_matches("error: ").trim_end().to_string())
    })
}

/// The options of the command `T` by their long names, and whether they take a value.
pub fn options<T: Args>() -> BTreeMap<String, bool> {
    let command = command::<T>();
    let named = command.get_arguments().filter_map(|option| Some((option.get_long()?, option)));
    named.map(|(name, option)| (name.to_string(), option.get_action().takes_values())).collect()
}

fn command<T: Args>() -> clap::Command {
    T::augment_args(clap::Command::new("zqc").disable_help_flag(true))
}

/// The arguments of the program; ends the process when they are not understood, or ask for help.
fn cli(arguments: impl IntoIterator<Item = OsString>) -> Cli {
    let matches = Cli::command().get_matches_from(arguments);
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let (None, Some(arguments)) = (&cli.command, &mut cli.compile) {
        let refused = |reason| Cli::command().error(ErrorKind::MissingRequiredArgument, reason).exit();
        model_argument::find(arguments, &matches).unwrap_or_else(refused);
    }
    cli
}

fn run(cli: Cli) -> Result<(), Error> {
    signals::handle().map_err(|error| Error::Model(format!("cannot handle signals: {error}")))?;
    match (cli.command, cli.compile) {
        (Some(Command::Eval(arguments)), _) => evaluate::run(&arguments),
        (Some(Command::Inspect(arguments)), _) => inspect::run(&arguments),
        (None, Some(arguments)) => compile::run(arguments),
        (None, None) => Err(Error::Usage("name a model; see zqc --help".to_string())),
    }
}

/// Gives rayon `threads` threads, at most one a core; by default as many.
fn set_threads(threads: Option<usize>) -> Result<(), Error> {
    let Some(threads) = threads else { return Ok(()) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(useful_threads(threads)).build_global();
    pool.map_err(|error| Error::Usage(format!("--threads {threads}: {error}")))
}

/// Prints a result, which may have several lines, to standard output; a closed pipe is no error of ours.
fn print(text: &str) -> Result<(), Error> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(source) if source.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::Output { path: "standard output".into(), source })
        }
        _ => Ok(()),
    }
}

fn json(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value).map_err(|error| Error::Model(format!("cannot write JSON: {error}")))
}
