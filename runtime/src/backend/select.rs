//! Back ends by name.

#[cfg(all(feature = "rten", feature = "ort"))]
use super::auto::Auto;
use super::error::BackendError;
use super::interface::Backend;
#[cfg(feature = "ort")]
use super::ort::Ort;
#[cfg(feature = "rten")]
use super::rten::Rten;

/// The back end called `name`, running on `threads` threads (by default, one for each physical core; at most one for each
/// core that this process may use, as threads without work look for some without pause). `auto` is rten, and ONNX Runtime for
/// subgraphs that rten cannot run, as far as this build has them.
///
/// # Errors
/// [`BackendError::UnknownBackend`], [`BackendError::NotBuilt`] without the feature of that name, or
/// [`BackendError::Library`] when `ort` finds no ONNX Runtime.
pub fn backend(name: &str, threads: Option<usize>) -> Result<Box<dyn Backend>, BackendError> {
    let threads = threads.map(useful_threads);
    match name {
        "auto" => auto(threads),
        "rten" => rten(threads),
        "ort" => ort(threads),
        _ => Err(BackendError::UnknownBackend { name: name.into() }),
    }
}

/// The names that [`backend()`] knows, the default first.
pub fn available_backends() -> &'static [&'static str] {
    &["auto", "rten", "ort"]
}

/// The number of threads to use: `threads`, but at most one for each core that this process may use.
pub fn useful_threads(threads: usize) -> usize {
    std::thread::available_parallelism().map_or(threads, |cores| threads.min(cores.get()))
}

#[cfg(all(feature = "rten", feature = "ort"))]
fn auto(threads: Option<usize>) -> Result<Box<dyn Backend>, BackendError> {
    Ok(Box::new(Auto::new(threads)))
}

#[cfg(not(all(feature = "rten", feature = "ort")))]
fn auto(threads: Option<usize>) -> Result<Box<dyn Backend>, BackendError> {
    if cfg!(feature = "ort") { ort(threads) } else { rten(threads) }
}

#[cfg(feature = "rten")]
fn rten(threads: Option<usize>) -> Result<Box<dyn Backend>, BackendError> {
    Ok(Box::new(Rten::new(threads)))
}

#[cfg(not(feature = "rten"))]
fn rten(_threads: Option<usize>) -> Result<Box<dyn Backend>, BackendError> {
    Err(BackendError::NotBuilt { name: "rten", feature: "rten" })
}

#[cfg(feature = "ort")]
fn ort(threads: Option<usize>) -> Result<Box<dyn Backend>, BackendError> {
    Ok(Box::new(Ort::new(threads)?))
}

#[cfg(not(feature = "ort"))]
fn ort(_threads: Option<usize>) -> Result<Box<dyn Backend>, BackendError> {
    Err(BackendError::NotBuilt { name: "ort", feature: "ort" })
}
