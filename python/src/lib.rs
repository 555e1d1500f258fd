//! `zqc._zqc`: the compiler for Python. Commands take the arguments of the command line and give JSON; the package around it,
//! `python/zqc`, makes keywords of the one and dictionaries of the other.

mod errors;
mod watched;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::OnceLock;

use clap::Args;
use pyo3::prelude::*;
use serde::Serialize;
use zqc::Error;
use zqc::cli::{self, Compilation, CompileArguments, EvaluateArguments};
use zqc::passes::Observer;

use errors::raise;
use watched::watched;

#[global_allocator]
static ALLOCATOR: cli::OrExit = cli::OrExit;

/// The message of the last panic.
static LAST_PANIC: OnceLock<Box<dyn Fn() -> String + Send + Sync>> = OnceLock::new();

#[pymodule(gil_used = false)]
mod _zqc {
    use super::*;

    #[pymodule_export]
    use super::errors::{InputError, InternalError, OutputError, UsageError};

    #[pymodule_init]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        LAST_PANIC.get_or_init(|| Box::new(cli::collect_panics()));
        Ok(())
    }

    /// Runs the command line; its exit code.
    #[pyfunction]
    fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
        py.detach(|| cli::main(arguments))
    }

    /// The options of a command, `compile` or `evaluate`, and whether they take a value.
    #[pyfunction]
    fn options(command: &str) -> PyResult<BTreeMap<String, bool>> {
        match command {
            "compile" => Ok(cli::options::<CompileArguments>()),
            "evaluate" => Ok(cli::options::<EvaluateArguments>()),
            _ => raise(Error::Usage(format!("there is no command {command:?}"))),
        }
    }

    /// Compiles a model; the report.
    #[pyfunction]
    fn compile(py: Python<'_>, arguments: Vec<OsString>, progress: Option<Py<PyAny>>) -> PyResult<String> {
        let arguments = parse::<CompileArguments>(arguments)?;
        let threads = arguments.options.threads;
        watched(py, threads, progress, |events| Compilation::try_from(arguments)?.run(events)).and_then(json)
    }

    /// Measures the perplexity of a model on a text.
    #[pyfunction]
    fn evaluate(py: Python<'_>, arguments: Vec<OsString>, progress: Option<Py<PyAny>>) -> PyResult<String> {
        let arguments = parse::<EvaluateArguments>(arguments)?;
        let run = watched(py, arguments.threads, progress, |events| {
            arguments.run(&mut |_| {}, &mut |done, count| {
                events.tell("windows", done, count);
                if events.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        run.and_then(json)
    }

    /// Lists the linear layers of a model or a package.
    #[pyfunction]
    fn inspect(py: Python<'_>, path: PathBuf) -> PyResult<String> {
        watched(py, None, None, |_| zqc::inspect(&path)).and_then(json)
    }

    /// The model that a path names: the file itself, or the one in the folder.
    #[pyfunction]
    fn find_model(path: PathBuf) -> PyResult<PathBuf> {
        zqc::find_model(&path).or_else(raise)
    }
}

fn parse<T: Args>(arguments: Vec<OsString>) -> PyResult<T> {
    cli::parse(arguments).or_else(raise)
}

fn json(value: impl Serialize) -> PyResult<String> {
    serde_json::to_string(&value).or_else(|error| raise(Error::Model(format!("cannot write JSON: {error}"))))
}
