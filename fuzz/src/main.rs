//! Feeds damaged and hostile files to whatever zqc reads, on stable Rust.
//!
//! `zqc-fuzz TARGET --minutes 30` takes inputs from `fuzz/corpus/TARGET`, changes them at random and reads them. A run fails on
//! a panic, on memory beyond a small multiple of the input, on an input that takes too long, and on whatever else the target
//! finds wrong; the input is then in `fuzz/findings/`. Inputs that give an outcome not seen before are changed further, and with
//! `cargo run --config fuzz/coverage.toml` those that take a new branch of the code.
//! `zqc-fuzz TARGET --inputs 4000` reads that many, the same ones every time: `tests/smoke.rs` does so for every target.
//! `zqc-fuzz TARGET --replay FILE` reads one input once.

mod campaign;
mod coverage;
mod memory;
mod mutate;
mod targets;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use campaign::Budget;
use clap::Parser;
use targets::{TARGETS, Target};

/// Feeds damaged and hostile files to whatever zqc reads.
#[derive(Parser)]
struct Arguments {
    /// What reads the inputs
    #[arg(value_parser = target)]
    target: &'static Target,
    /// How long, in minutes of the processor's work
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// How many changed inputs, however long they take
    #[arg(long, conflicts_with = "minutes")]
    inputs: Option<u64>,
    /// Decides every change, beside the corpus and what came of the inputs before
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Reads this file once instead
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

impl Arguments {
    fn budget(&self) -> Budget {
        match self.inputs {
            Some(inputs) => Budget::Inputs(inputs),
            None => Budget::Time(Duration::from_secs_f64(self.minutes.max(0.0) * 60.0)),
        }
    }
}

fn target(name: &str) -> Result<&'static Target, String> {
    TARGETS.iter().find(|target| target.name == name).ok_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        format!("there is no target {name}; there are {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.replay {
        Some(file) => campaign::replay(arguments.target, file),
        None => campaign::run(arguments.target, arguments.budget(), arguments.seed),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
