//! Specialized kernels to cubins, each compiled once on a machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cache::{Cache, Key};
use crate::error::Error;
use crate::nvrtc;
use crate::variant::Specialization;

/// The kernels' sources by file name, those that end in `.cuh` for the others to include.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Sources(Arc<BTreeMap<String, String>>);

impl<N: Into<String>, T: Into<String>> FromIterator<(N, T)> for Sources {
    fn from_iter<I: IntoIterator<Item = (N, T)>>(files: I) -> Self {
        Self(Arc::new(files.into_iter().map(|(name, text)| (name.into(), text.into())).collect()))
    }
}

impl Sources {
    fn get(&self, name: &str) -> Result<&str, Error> {
        self.0.get(name).map(String::as_str).ok_or_else(|| Error::NoSource { name: name.into() })
    }

    fn headers(&self) -> Vec<(&str, &str)> {
        let headers = self.0.iter().filter(|(name, _)| name.ends_with(".cuh"));
        headers.map(|(name, text)| (name.as_str(), text.as_str())).collect()
    }
}

/// NVRTC with a cache of what it made. Needs no GPU and no driver.
///
/// The cache is the folder that the environment variable `ZQC_CACHE` names, or else `zqc` in the user's cache
/// folder; an empty `ZQC_CACHE` turns it off. Where the loader does not find NVRTC, `ZQC_NVRTC_LIB` names its
/// folder.
#[derive(Debug)]
pub struct Compiler {
    version: String,
    cache: Cache,
}

impl Compiler {
    /// Loads NVRTC.
    ///
    /// # Errors
    /// [`Error::NoCompiler`] when it is not on this machine.
    pub fn new() -> Result<Self, Error> {
        Self::with_cache(Cache::from_environment())
    }

    /// Loads NVRTC, and compiles anew at every call.
    ///
    /// # Errors
    /// [`Error::NoCompiler`] when it is not on this machine.
    pub fn uncached() -> Result<Self, Error> {
        Self::with_cache(Cache::default())
    }

    fn with_cache(cache: Cache) -> Result<Self, Error> {
        let (major, minor) = nvrtc::version()?;
        Ok(Self { version: format!("{major}.{minor}"), cache })
    }

    /// A cubin for `sm_90a`.
    ///
    /// # Errors
    /// [`Error::NoSource`] when the source is missing, [`Error::Compile`] when NVRTC refuses it.
    pub fn compile(&self, sources: &Sources, kernel: &Specialization) -> Result<Vec<u8>, Error> {
        let source = sources.get(kernel.source())?;
        let headers = sources.headers();
        let options = kernel.options();
        let files = headers.iter().flat_map(|&(name, text)| [name, text]);
        let key = Key::new(
            ["nvrtc", &self.version, kernel.source(), source]
                .into_iter()
                .chain(files)
                .chain(options.iter().map(String::as_str)),
        );
        if let Some(cubin) = self.cache.get(&key) {
            return Ok(cubin);
        }
        let cubin = nvrtc::compile(&kernel.to_string(), source, &headers, &options)?;
        self.cache.put(&key, &cubin);
        Ok(cubin)
    }
}
