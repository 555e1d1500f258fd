//! Runs subgraphs of a model on data.
//!
//! * [`backend()`] gives an executor by name; a [`Backend`] loads a [`Subgraph`] into a [`Session`] that maps named
//!   [`Array`]s to named [`Array`]s.
//! * [`partition()`] cuts a graph into [`Stage`]s; the [`Interpreter`] runs them, our own operators included. [`Control`] runs
//!   `If`, `Loop` and `Scan` iteration by iteration.
//! * [`InputSpec`] declares an input of a model; [`make_inputs`] derives those that a [`Sample`] lacks.
//! * [`load_calibration`] reads samples from text, JSON lines and files of arrays, with a [`Tokenizer`] for text;
//!   [`synthesize()`] has a causal model generate its own.
//!
//! The features `rten`, `ort` and `tokenizers`, all on by default, are the back ends and the reader of `tokenizer.json`. Without
//! them [`Backend`] is for callers to implement, and data are arrays.

mod array;
mod backend;
#[cfg(any(feature = "rten", feature = "tokenizers"))]
mod catch_panic;
mod control;
mod dataset;
mod element_types;
mod inputs;
mod interpreter;
mod partition;
mod run_error;
mod sessions;
mod slices;
mod synthesize;
mod tokenizer;

pub use array::{Array, ArrayData, ArrayError};
pub use backend::{
    Backend, BackendError, LibraryError, Session, Subgraph, UsedLibrary, available_backends, backend,
    useful_threads,
};
pub use control::{Control, Watch};
pub use dataset::{CalibrationSample, DataError, SampleOptions, TokenizerSource, load_calibration};
pub use inputs::{
    Dimension, EMBEDDINGS, InputError, InputSpec, Packed, Sample, make_inputs, names_cache, names_positions,
    pack, token_input, token_inputs,
};
pub use interpreter::{Interpreter, Live, Prepared};
pub use partition::{Stage, partition};
pub use run_error::RunError;
pub use sessions::{LoadedRegions, LoadedWeight};
pub use synthesize::{SynthesizeError, synthesize};
pub use tokenizer::{Tokenizer, TokenizerError};

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
