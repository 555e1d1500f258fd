//! ONNX models.

use std::path::Path;

use zqc_passes::{LowerNative, LowerPortable, Opset, Pass, ShareOperands, UpgradeOpset};

use super::{Target, Verification, Written};
use crate::error::Error;
use crate::options::Choice;
use crate::options::Options;
use crate::verify::verify;

/// The least opset whose `Cast` knows FP8.
pub(crate) const PORTABLE_OPSET: Opset = Opset::At(19);

/// ONNX that stock ONNX Runtime executes with exact numbers, see [`LowerPortable`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Portable;

impl Target for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn holds_subgraphs(&self) -> bool {
        true
    }

    fn holds_tables(&self) -> bool {
        true
    }

    fn takes_small_groups(&self) -> bool {
        true
    }

    fn lowering(&self) -> Vec<Box<dyn Pass>> {
        vec![Box::new(UpgradeOpset { to: PORTABLE_OPSET }), Box::new(LowerPortable), Box::new(ShareOperands)]
    }

    fn verify(&self, path: &Path, written: &Written) -> Result<Verification, Error> {
        let backend = written.has_layers.then(|| written.backend()).transpose()?;
        let words = verify(path, written, backend.as_deref())?;
        Ok(Verification { words, library: backend.and_then(|backend| backend.used_library()) })
    }
}

/// ONNX in its own low-precision types, for importers that know them, see [`LowerNative`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Native;

impl Target for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn check(&self, options: &Options) -> Result<(), Error> {
        if options.weights.format.onnx_type().is_none() {
            let (word, reason) = (options.weights.word(), "ONNX has no type for these weights");
            return Err(Error::Usage(format!("--weights {word}: {reason}; use --target portable")));
        }
        Ok(())
    }

    fn lowering(&self) -> Vec<Box<dyn Pass>> {
        let to = Opset::LeastFor(LowerNative::least_opset);
        vec![Box::new(UpgradeOpset { to }), Box::new(LowerNative), Box::new(ShareOperands)]
    }
}
