//! What a compilation writes, and for whom: the passes that lower the quantized graph, the writer and the check of what was written.

mod onnx;
mod package;
mod text;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zqc_ir::Model;
use zqc_passes::Pass;
use zqc_runtime::{Backend, UsedLibrary};

use crate::error::Error;
use crate::model_folder::Destination;
use crate::options::Options;
use crate::verify::{self, Inputs};

pub(crate) use onnx::PORTABLE_OPSET;
pub use onnx::{Native, Portable};
pub use package::CudaPackage;
pub use text::Text;

/// What the quantized graph becomes.
pub trait Target {
    /// How messages name it.
    fn name(&self) -> &'static str;

    /// Whether layers in the subgraphs of `If`, `Loop` and `Scan` can be quantized; else they stay in float.
    fn holds_subgraphs(&self) -> bool {
        false
    }

    /// Whether a table of codes, that rows are looked up in, can be held; else the language-model head and the table of the tokens
    /// stay in float.
    fn holds_tables(&self) -> bool {
        false
    }

    /// Whether groups of 16 weights can be held, with no more than 4 bits for the scale of each.
    fn takes_small_groups(&self) -> bool {
        false
    }

    /// Checks that what the options ask for can be lowered.
    ///
    /// # Errors
    /// [`Error::Usage`] with the option and a way out.
    fn check(&self, _options: &Options) -> Result<(), Error> {
        Ok(())
    }

    /// The passes that lower the quantized graph, in order.
    fn lowering(&self) -> Vec<Box<dyn Pass>>;

    /// What comes of a model without layers to quantize, in words.
    fn without_layers(&self) -> &'static str {
        "the output is the model as it came"
    }

    /// Writes the model that is read from `input` to `output`; an ONNX file or folder unless the target has another form.
    ///
    /// # Errors
    /// When `output` cannot be written: it is found out before any work is spent.
    fn writer(&self, input: &Path, output: &Path, options: &Options) -> Result<Box<dyn Writer>, Error> {
        Ok(Box::new(Destination::of(input, output, options.external_data)?.checked()?))
    }

    /// Checks what was written to `path`.
    ///
    /// # Errors
    /// [`Error::Verify`] when it does not match the model in memory.
    fn verify(&self, path: &Path, written: &Written) -> Result<Verification, Error> {
        verify::verify(path, written, None).map(Verification::from)
    }
}

/// Writes a lowered model.
pub trait Writer {
    /// What takes time, in words.
    fn step(&self) -> &'static str {
        "writing"
    }

    /// Writes `model` beside its place, for `verify` to read it there, then moves it to its place. The size in bytes.
    ///
    /// # Errors
    /// When it cannot be written, or what `verify` says; nothing was replaced then.
    fn write(&self, model: &Model, verify: &mut dyn FnMut(&Path) -> Result<(), Error>) -> Result<u64, Error>;

    /// The files that go along with the model.
    fn companions(&self) -> &[PathBuf] {
        &[]
    }
}

/// A model that was written, and what it was made of.
pub struct Written<'a> {
    /// The options of the compilation.
    pub options: &'a Options,
    /// The back end of the caller, see [`Compiler::with_backend`](crate::Compiler::with_backend).
    pub backend: Option<&'a Arc<dyn Backend>>,
    /// The model as it came.
    pub source: &'a Model,
    /// The quantized graph before it was lowered.
    pub quantized: &'a Model,
    /// What was written.
    pub lowered: &'a Model,
    /// Whether any layer was quantized.
    pub has_layers: bool,
    /// A calibration sample.
    pub sample: Option<&'a Inputs>,
}

impl Written<'_> {
    /// The back end of the compilation.
    ///
    /// # Errors
    /// When the options name one that this build does not have, or that does not load.
    pub fn backend(&self) -> Result<Arc<dyn Backend>, Error> {
        self.options.backend(self.backend)
    }
}

/// What came of a check.
pub struct Verification {
    /// In words.
    pub words: String,
    /// The ONNX Runtime that ran what was written, if one was needed.
    pub library: Option<UsedLibrary>,
}

impl From<String> for Verification {
    fn from(words: String) -> Self {
        Self { words, library: None }
    }
}
