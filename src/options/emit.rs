//! The targets that the command line names.

use super::{Choice, Options};
use crate::target::{CudaPackage, Native, Portable, Target, Text};

/// What a compilation writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Emit {
    /// A lowered ONNX model.
    #[default]
    Onnx,
    /// A folder of weights packed for the CUDA kernels, see [`zqc_kernels`].
    Cuda,
    /// The textual form of the quantized graph, before it is lowered.
    Ir,
}

/// The form of quantized layers in an ONNX model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnnxDialect {
    /// That of [`Portable`].
    #[default]
    Portable,
    /// That of [`Native`].
    Native,
}

impl Choice for Emit {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("onnx", Self::Onnx), ("cuda", Self::Cuda), ("ir", Self::Ir)];
}

impl Choice for OnnxDialect {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("portable", Self::Portable), ("native", Self::Native)];
}

impl Options {
    /// The target that these choices name.
    pub fn target(&self) -> Box<dyn Target> {
        let onnx: Box<dyn Target> = match self.dialect {
            OnnxDialect::Portable => Box::new(Portable),
            OnnxDialect::Native => Box::new(Native),
        };
        match self.emit {
            Emit::Onnx => onnx,
            Emit::Cuda => Box::new(CudaPackage),
            Emit::Ir => Box::new(Text { of: onnx }),
        }
    }
}
