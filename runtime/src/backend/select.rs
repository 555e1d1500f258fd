//! Back ends by name.

use super::auto::Auto;
use super::interface::{Backend, BackendError};
use super::ort::Ort;
use super::rten::Rten;

/// The back end called `name`, running on `threads` threads (by default, one for each physical core; at most one for each
/// core that this process may use, as threads without work look for some without pause).
///
/// # Errors
/// [`BackendError::UnknownBackend`], or [`BackendError::Library`] when `ort` finds no ONNX Runtime.
pub fn backend(name: &str, threads: Option<usize>) -> Result<Box<dyn Backend>, BackendError> {
    let threads = threads.map(useful_threads);
    match name {
        "auto" => Ok(Box::new(Auto::new(threads))),
        "rten" => Ok(Box::new(Rten::new(threads))),
        "ort" => Ok(Box::new(Ort::new(threads)?)),
        _ => Err(BackendError::UnknownBackend { name: name.into() }),
    }
}

/// The number of threads to use: `threads`, but at most one for each core that this process may use.
pub fn useful_threads(threads: usize) -> usize {
    std::thread::available_parallelism().map_or(threads, |cores| threads.min(cores.get()))
}
