//! The functions of domain `ai.zqc`.

use zqc_formats::{ActivationFormat, Signature, WeightKind};

/// Which function an operator computes.
#[derive(Clone, Copy)]
pub(crate) enum Function {
    /// Token-wise quantization.
    Quantize(ActivationFormat),
    /// A linear layer.
    Linear(Signature),
    /// Rows of a table.
    Gather(WeightKind),
}

impl Function {
    /// Every function.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let quantize = ActivationFormat::ALL.into_iter().map(Self::Quantize);
        let linear = Signature::all().map(Self::Linear);
        quantize.chain(linear).chain(WeightKind::tables().map(Self::Gather))
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Quantize(format) => format.quantize_function(),
            Self::Linear(signature) => signature.name(),
            Self::Gather(kind) => kind.gather_function(),
        }
    }
}
