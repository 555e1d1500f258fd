//! Element types of inputs and outputs.

use half::{bf16, f16};

use crate::variant::DataType;

/// A type that kernels read and write: [`struct@bf16`], [`struct@f16`] or `f32`.
pub trait Element: sealed::Sealed {
    /// Its number in the kernels.
    const TYPE: DataType;
}

impl Element for bf16 {
    const TYPE: DataType = DataType::Bf16;
}

impl Element for f16 {
    const TYPE: DataType = DataType::F16;
}

impl Element for f32 {
    const TYPE: DataType = DataType::F32;
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
    impl Sealed for f32 {}
}
