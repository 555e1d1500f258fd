//! The executor: a back end loads a [`Subgraph`] of a model and runs it on named [`Array`](crate::Array)s.
//!
//! Back ends agree on what goes in and out (host arrays by declared name), so that they can be swapped and
//! checked against each other. None of them ever sees FP8 or FP4: quantized layers are run by the caller.

mod auto;
mod decompose;
mod externalize;
mod inline;
mod interface;
mod io_types;
mod ort;
mod rten;
mod select;
mod softmax;
mod visit;
mod widen;

pub use interface::{Backend, BackendError, Session, Subgraph, UsedLibrary, available_backends};
pub use ort::LibraryError;
pub use select::{backend, useful_threads};
