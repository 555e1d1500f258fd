//! Runs pieces of a graph on data.
//!
//! * [`backend()`] gives an executor by name; a [`Backend`] loads a [`Piece`] into a [`Session`] that maps named
//!   [`Array`]s to named [`Array`]s.
//! * [`partition()`] cuts a graph into [`Stage`]s; the [`Interpreter`] runs them, our own operators included. [`Control`] runs
//!   `If`, `Loop` and `Scan` turn by turn.
//! * [`InputSpec`] says what a model asks for; [`make_inputs`] completes what a [`Sample`] gives.
//! * [`load_calibration`] reads samples from text, JSON lines and files of arrays, with a [`Tokenizer`] for text;
//!   [`synthesize()`] lets a causal model write its own.

mod array;
mod backend;
mod control;
mod dataset;
mod element_types;
mod guard;
mod inputs;
mod interpreter;
mod partition;
mod slices;
mod synthesize;
mod tokenizer;

pub use array::{Array, ArrayData, ArrayError};
pub use backend::{
    Backend, BackendError, LibraryError, Piece, Session, UsedLibrary, available_backends, backend,
    useful_threads,
};
pub use control::{Bodies, Control, LoadedBodies, Raise, Watch};
pub use dataset::{CalibrationSample, DataError, Sample, SampleOptions, TokenizerSource, load_calibration};
pub use inputs::{
    Dimension, EMBEDDINGS, InputError, InputSpec, Packed, make_inputs, names_cache, names_positions, pack,
    token_input, token_inputs,
};
pub use interpreter::{Interpreter, Live, Prepared, RunError};
pub use partition::{Stage, partition};
pub use synthesize::{SynthesizeError, synthesize};
pub use tokenizer::{Tokenizer, TokenizerError};
