//! The executor: a back end loads a [`Subgraph`] of a model and runs it on named [`Array`](crate::Array)s.
//!
//! Back ends agree on what goes in and out (host arrays by declared name), so that they can be swapped and
//! checked against each other. None of them ever sees FP8 or FP4: quantized layers are run by the caller.

#[cfg(all(feature = "rten", feature = "ort"))]
mod auto;
mod error;
mod interface;
#[cfg(any(feature = "rten", feature = "ort"))]
mod io_types;
#[cfg(feature = "ort")]
mod ort;
#[cfg(any(feature = "rten", feature = "ort"))]
#[cfg_attr(
    not(all(feature = "rten", feature = "ort")),
    allow(dead_code, unused_imports, reason = "each back end has its rewrites")
)]
mod rewrite;
#[cfg(feature = "rten")]
mod rten;
mod select;

pub use error::{BackendError, LibraryError};
pub use interface::{Backend, Session, Subgraph, UsedLibrary};
pub use select::{available_backends, backend, useful_threads};
