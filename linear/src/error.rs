//! What can be wrong with a layer, with activations and with the choice of an instruction set.

use zqc_formats::{Format, Ladder};

/// Why a layer cannot be packed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A dimension is 0.
    #[error("the weight is empty ({k} x {n}, groups of {group_size}): every one of these must be at least 1")]
    Empty {
        /// Input features.
        k: usize,
        /// Output features.
        n: usize,
        /// Weights that share a scale.
        group_size: usize,
    },
    /// The number of elements exceeds the address space.
    #[error("a weight of {k} x {n} is larger than memory can be")]
    TooLarge {
        /// Input features.
        k: usize,
        /// Output features.
        n: usize,
    },
    /// An operand does not hold what the shape needs.
    #[error("{what}: {actual} elements, the shape of the layer needs {expected}")]
    Length {
        /// The operand.
        what: &'static str,
        /// Elements that the shape needs.
        expected: usize,
        /// Elements that there are.
        actual: usize,
    },
    /// Shifts of a format whose scales cannot be steps of that ladder.
    #[error("{format} codes have no shifts of {ladder}")]
    Shifts {
        /// Format of the codes.
        format: Format,
        /// The ladder.
        ladder: Ladder,
    },
    /// Zero points of a floating-point format.
    #[error("{0} codes have no zero points, those of integers do")]
    ZeroPoints(Format),
    /// An element that is NaN or infinite.
    #[error("{what}: element {at} is NaN or infinite; the file is damaged")]
    NotFinite {
        /// The operand.
        what: &'static str,
        /// Index of the first such element, in the order of the file.
        at: usize,
    },
    /// The processor lacks the instruction set.
    #[error(transparent)]
    Isa(#[from] IsaError),
}

/// Slices that do not fit each other.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{what}: {actual} elements, {expected}")]
pub struct ShapeError {
    /// The slice.
    pub what: &'static str,
    /// What it must hold.
    pub expected: Expected,
    /// Elements that there are.
    pub actual: usize,
}

/// How many elements a slice must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expected {
    /// This many.
    Exactly(usize),
    /// A multiple of this many.
    MultipleOf(usize),
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(elements) => write!(f, "not {elements}"),
            Self::MultipleOf(elements) => write!(f, "no multiple of {elements}"),
        }
    }
}

impl ShapeError {
    /// Checks that `what` has `expected` elements.
    pub(crate) fn check(what: &'static str, actual: usize, expected: usize) -> Result<(), Self> {
        let expected = Expected::Exactly(expected);
        if expected == Expected::Exactly(actual) { Ok(()) } else { Err(Self { what, expected, actual }) }
    }
}

/// An instruction set that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsaError {
    /// A name that is none of an instruction set.
    #[error("ZQC_CPU names no instruction set: '{name}' (this processor has: {available})")]
    Unknown {
        /// The name.
        name: String,
        /// The names that would do.
        available: String,
    },
    /// An instruction set that this processor, or its operating system, does not offer.
    #[error("this processor, or its operating system, does not offer {name} (it has: {available})")]
    Unavailable {
        /// The name.
        name: &'static str,
        /// The names that would do.
        available: String,
    },
}
