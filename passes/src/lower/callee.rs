//! The functions that read a quantized weight.

use zqc_formats::{Operand, Signature, WeightKind};
use zqc_ir::op::QuantizedLinear;
use zqc_ir::tensor::DataType;

use super::{gather, signature};

/// A function that reads a quantized weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callee {
    /// It computes a layer.
    Linear(Signature),
    /// It looks rows up in a table.
    Gather(WeightKind),
}

impl Callee {
    /// The function of this name, if it is such a one.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Signature::parse(name).map(Self::Linear).or_else(|| WeightKind::of_gather(name).map(Self::Gather))
    }

    /// What the weight consists of.
    pub(crate) fn weight(self) -> WeightKind {
        match self {
            Self::Linear(signature) => signature.weight,
            Self::Gather(weight) => weight,
        }
    }

    /// Whether the operands lie row by row.
    pub(crate) fn by_rows(self) -> bool {
        match self {
            Self::Linear(signature) => signature.trans_b,
            Self::Gather(_) => true,
        }
    }

    /// How many inputs come before the operands: what stands for the activation, or the indices.
    pub(crate) fn first_operand(self) -> usize {
        match self {
            Self::Linear(signature) => signature.activation_inputs().len(),
            Self::Gather(_) => 1,
        }
    }

    /// The operands, in the order of the inputs.
    pub(crate) fn operands(self) -> Vec<Operand> {
        match self {
            Self::Linear(signature) => signature.operands().collect(),
            Self::Gather(weight) => weight.operands().collect(),
        }
    }

    /// The operand that an input is, if it is one.
    pub(crate) fn operand(self, input: usize) -> Option<Operand> {
        self.operands().get(input.checked_sub(self.first_operand())?).copied()
    }

    /// What an operand of `linear` is in the file: its element type and its dimensions.
    pub(crate) fn file_type(self, operand: Operand, linear: &QuantizedLinear) -> (DataType, Vec<usize>) {
        match self {
            Self::Linear(signature) if !signature.trans_b => signature::file_type(signature, operand, linear),
            _ => gather::file_type(operand, linear),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_and_indices_are_no_operands() {
        let operands = |name| {
            let callee = Callee::parse(name).unwrap();
            [0, 1, 2, 3, 4].map(|input| callee.operand(input))
        };
        let [weight, scales] = [Operand::Weight, Operand::Scales].map(Some);
        assert_eq!(operands("GatherInt8"), [None, weight, scales, None, None]);
        assert_eq!(operands("W8A16Linear_Int8_TransB"), [None, weight, scales, None, None]);
        assert_eq!(operands("W8A8Linear_TransB"), [None, None, weight, scales, None]);
    }
}
