//! Which kernels an instruction set has.

use std::ops::Range;

use crate::finish::{Epilogue, finish};
use crate::isa::Isa;
use crate::lanes;
use crate::matrix::Matrix;
use crate::panel::accumulate;
use crate::prepare::{Form, View};

/// Tokens from which AMX is faster than fused multiply-add.
#[cfg(target_arch = "x86_64")]
const AMX_TOKENS: usize = 3;

/// The kernels of an instruction set that the processor has.
pub(crate) struct Kernels {
    /// What they read.
    pub form: Form,
    accumulate: unsafe fn(&Matrix, Range<usize>, View<'_>, &mut [f32]),
    finish: unsafe fn(&Epilogue<'_>, usize, &mut [f32], &mut Vec<f32>),
}

/// The generic kernels for one kind of vectors, with its instructions enabled.
macro_rules! kernels {
    ($name:ident, $vector:ty $(, #[$features:meta])?) => {
        mod $name {
            use super::*;

            /// # Safety
            /// As of [`crate::panel::accumulate`].
            $(#[$features])?
            pub(super) unsafe fn accumulate(matrix: &Matrix, panels: Range<usize>, x: View<'_>, acc: &mut [f32]) {
                // SAFETY: the caller's condition.
                unsafe { super::accumulate::<$vector>(matrix, panels, x, acc) }
            }

            /// # Safety
            /// As of [`crate::finish::finish`].
            $(#[$features])?
            pub(super) unsafe fn finish(epilogue: &Epilogue<'_>, panel: usize, acc: &mut [f32], space: &mut Vec<f32>) {
                // SAFETY: the caller's condition.
                unsafe { super::finish::<$vector>(epilogue, panel, acc, space) }
            }
        }
    };
}

kernels!(scalar, lanes::scalar::Array);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, lanes::avx2::Ymm, #[target_feature(enable = "avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
kernels!(avx512, lanes::avx512::Zmm, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]);
#[cfg(target_arch = "aarch64")]
kernels!(neon, lanes::neon::Quad, #[target_feature(enable = "neon")]);

impl Kernels {
    /// The kernels of an available instruction set for `tokens` tokens, quantized or not.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "one kernel for all"))]
    pub(crate) fn of(isa: Isa, quantized: bool, tokens: usize) -> Self {
        let scalar = Self { form: Form::Rows, accumulate: scalar::accumulate, finish: scalar::finish };
        #[cfg(target_arch = "x86_64")]
        let (avx2, avx512) = (
            Self { form: Form::Rows, accumulate: avx2::accumulate, finish: avx2::finish },
            Self { form: Form::Rows, accumulate: avx512::accumulate, finish: avx512::finish },
        );
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if quantized && tokens >= AMX_TOKENS => {
                Self { form: Form::Tiles, accumulate: crate::amx::accumulate, finish: avx512::finish }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Bf16 if quantized => {
                Self { form: Form::Pairs, accumulate: crate::dot::accumulate, finish: avx512::finish }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Bf16 | Isa::Amx => avx512,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Self { form: Form::Rows, accumulate: neon::accumulate, finish: neon::finish },
            _ => scalar,
        }
    }

    /// Writes the sums of `panels` over all groups, `acc` `[panel][token][16]`, for the tokens of `x`.
    pub(crate) fn accumulate(&self, matrix: &Matrix, panels: Range<usize>, x: View<'_>, acc: &mut [f32]) {
        assert!(panels.end <= matrix.panels && x.arrangement.groups.blocks >= matrix.groups.blocks);
        // SAFETY: `PackedLinear` has checked that the instruction set is available.
        unsafe { (self.accumulate)(matrix, panels, x, acc) }
    }

    /// Turns the sums `acc` `[token][16]` of a panel into outputs.
    pub(crate) fn finish(
        &self,
        epilogue: &Epilogue<'_>,
        panel: usize,
        acc: &mut [f32],
        space: &mut Vec<f32>,
    ) {
        // SAFETY: `PackedLinear` has checked that the instruction set is available.
        unsafe { (self.finish)(epilogue, panel, acc, space) }
    }
}
