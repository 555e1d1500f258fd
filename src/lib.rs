//! zqc: an ahead-of-time compiler from ONNX language models to W4A8 floating point.
//!
//! [`Compiler`] runs the whole chain, from file to file. Its passes can be listed, skipped and joined by passes of
//! one's own:
//!
//! ```no_run
//! use zqc::{Compiler, Options};
//!
//! let options = Options { calibration: vec!["text.txt".into()], tokenizer: Some("tokenizer.json".into()), ..Options::default() };
//! let report = Compiler::new(options).compile("model.onnx".as_ref(), "model.w4a8.onnx".as_ref())?;
//! println!("{} layers, {:.2} bits per weight", report.layers.len(), report.totals.bits_per_weight);
//! # Ok::<(), zqc::Error>(())
//! ```
//!
//! `examples/custom_pass.rs` adds a pass, `examples/deployment_compiler.rs` compiles a model in memory for a [`Target`] of its own.
//!
//! Features, all on by default: `cli` (the program and clap arguments), `rten` and `ort` (what runs the standard operators in
//! calibration), `tokenizers` (text as calibration data). Without the last three, [`Compiler::with_backend`] takes a back end and
//! [`Compiler::compile_model`] samples in memory; rounding to nearest ([`Method::Rtn`]) needs neither.
//!
//! The crates below hold the parts: [`formats`], [`solvers`], [`ir`]
//! (the graph), [`runtime`] (executors and data), [`passes`], [`kernels`] (the CUDA package).

mod calibration;
#[cfg(feature = "cli")]
pub mod cli;
mod compiler;
mod error;
mod evaluate;
mod growth;
mod inspect;
mod memory;
mod model_folder;
mod options;
mod pipeline;
mod raise;
mod report;
mod resume;
mod target;
mod verify;

pub use zqc_formats as formats;
pub use zqc_ir as ir;
pub use zqc_kernels as kernels;
pub use zqc_passes as passes;
pub use zqc_runtime as runtime;
pub use zqc_solvers as solvers;

pub use calibration::find_tokenizer;
pub use compiler::{Compiler, Events};
pub use error::Error;
pub use evaluate::{Comparison, Distribution, Estimate, Evaluation, HeldOutReport, Perplexity, evaluate};
pub use inspect::{InspectedFile, Inspection, LinearSummary, inspect};
pub use model_folder::find_model;
pub use options::{Choice, Emit, Head, Method, OnnxDialect, Options};
pub use pipeline::{Phase, Pipeline, StopAfter};
pub use report::{
    ActivationReport, KeptLayer, LayerReport, LibraryReport, Octave, OptionReport, Quantile, Report,
    RequantizedLayer, RoundingError, Shift, StageReport, Totals, WeightHistogram,
};
pub use target::{CudaPackage, Native, Portable, Target, Text, Verification, Writer, Written};
pub use verify::VerifyError;
pub use zqc_solvers::{Order, ScaleSearch};
