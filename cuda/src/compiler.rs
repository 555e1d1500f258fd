//! Specialized kernels to cubins, each compiled once on a machine.

use crate::cache::{Cache, Key};
use crate::error::Error;
use crate::nvrtc;
use crate::sources::HEADERS;
use crate::variant::Specialization;

/// NVRTC with a cache of what it made. Needs no GPU and no driver.
///
/// The cache is a private folder `zqc` in the user's cache folder, or in the one that the environment variable `ZQC_CACHE`
/// names; an empty `ZQC_CACHE` turns it off. A kernel's file there is named by the hash of its source, the headers, the
/// options and NVRTC's version. Where the loader does not find NVRTC, `ZQC_NVRTC_LIB` names its folder.
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
    /// [`Error::Compile`] when NVRTC refuses the kernel.
    pub fn compile(&self, kernel: &Specialization) -> Result<Vec<u8>, Error> {
        let source = kernel.source();
        let options = kernel.options();
        let files = HEADERS.iter().flat_map(|&(name, text)| [name, text]);
        let key = Key::new(
            ["nvrtc", &self.version, source.file_name(), source.text()]
                .into_iter()
                .chain(files)
                .chain(options.iter().map(String::as_str)),
        );
        if let Some(cubin) = self.cache.get(&key) {
            return Ok(cubin);
        }
        let cubin = nvrtc::compile(&kernel.to_string(), source.text(), &HEADERS, &options)?;
        self.cache.put(&key, &cubin);
        Ok(cubin)
    }
}
