//! Which kernels an instruction set has.

use std::ops::Range;

use crate::blocks::{self, Place, Weights};
#[cfg(target_arch = "x86_64")]
use crate::exact;
use crate::few;
use crate::finish::{Epilogue, finish};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::kernel_table::Exact;
use crate::kernel_table::{Accumulate, Fma};
use crate::lanes;
use crate::many;
use crate::matrix::Matrix;
use crate::operands::Tokens;
use crate::prepare::{Form, ValuesMut, View};
use crate::tiling::PANEL;

/// Tokens from which AMX is used: it is level there with products of integers, and faster from then on.
#[cfg(target_arch = "x86_64")]
const AMX_TOKENS: usize = 3;

/// The kernels of an instruction set that the processor has.
pub(crate) struct Kernels {
    /// What they read.
    pub form: Form,
    fma: Fma,
    /// Those that read tiles.
    tiles: Option<Accumulate>,
}

/// The generic kernels for one kind of vectors, with its instructions enabled.
macro_rules! kernels {
    ($name:ident, $vector:ty $(, #[$features:meta])?) => {
        mod $name {
            use super::*;

            pub(super) const KERNELS: Fma = Fma { prepare, few, decode, add, scale, finish, exact: None };

            /// # Safety
            /// The instruction set is available.
            $(#[$features])?
            unsafe fn prepare(
                tokens: &Tokens<'_>,
                token: usize,
                x: &mut [f32],
                row: usize,
                to: [Option<&mut ValuesMut<'_>>; 2],
            ) -> f32 {
                crate::prepare::prepare(tokens, token, x, row, to)
            }

            /// # Safety
            /// As of [`crate::few::accumulate`].
            $(#[$features])?
            unsafe fn few(matrix: &Matrix, panels: Range<usize>, x: View<'_>, acc: &mut [f32]) {
                // SAFETY: the caller's condition.
                unsafe { super::few::accumulate::<$vector>(matrix, panels, x, acc) }
            }

            /// # Safety
            /// As of [`crate::blocks::decode`].
            $(#[$features])?
            unsafe fn decode(matrix: &Matrix, place: Place, to: &mut Weights) {
                // SAFETY: the caller's condition.
                unsafe { blocks::decode::<$vector>(matrix, place, to) }
            }

            /// # Safety
            /// As of [`crate::blocks::add`].
            $(#[$features])?
            unsafe fn add(
                weights: &Weights,
                features: usize,
                x: View<'_>,
                tokens: Range<usize>,
                block: usize,
                sums: &mut [f32],
            ) {
                // SAFETY: the caller's condition.
                unsafe { blocks::add::<$vector>(weights, features, x, tokens, block, sums) }
            }

            /// # Safety
            /// As of [`crate::blocks::scale`].
            $(#[$features])?
            unsafe fn scale(sums: &[f32], scales: &[f32; PANEL], acc: &mut [f32]) {
                // SAFETY: the caller's condition.
                unsafe { blocks::scale::<$vector>(sums, scales, acc) }
            }

            /// # Safety
            /// As of [`crate::finish::finish`].
            $(#[$features])?
            unsafe fn finish(
                epilogue: &Epilogue<'_>,
                panels: Range<usize>,
                acc: &[f32],
                space: &mut Vec<f32>,
            ) {
                // SAFETY: the caller's condition.
                unsafe { super::finish::<$vector>(epilogue, panels, acc, space) }
            }
        }
    };
}

/// The kernels by products of integers for one kind of vectors and of products, with their instructions enabled.
#[cfg(target_arch = "x86_64")]
macro_rules! exact_kernels {
    ($name:ident, $vector:ty, $dot:ty, #[$features:meta]) => {
        mod $name {
            use super::*;

            pub(super) const KERNELS: Exact = Exact { few, decode, add };

            /// # Safety
            /// As of [`crate::exact::accumulate_few`].
            #[$features]
            unsafe fn few(matrix: &Matrix, panels: Range<usize>, x: View<'_>, acc: &mut [f32]) {
                // SAFETY: the caller's condition.
                unsafe { exact::accumulate_few::<$vector, $dot>(matrix, panels, x, acc) }
            }

            /// # Safety
            /// As of [`crate::exact::decode`].
            #[$features]
            unsafe fn decode(matrix: &Matrix, place: Place, to: &mut exact::Weights) -> bool {
                // SAFETY: the caller's condition.
                unsafe { exact::decode::<$vector>(matrix, place, to) }
            }

            /// # Safety
            /// As of [`crate::exact::add`].
            #[$features]
            unsafe fn add(
                weights: &exact::Weights,
                features: usize,
                x: View<'_>,
                tokens: Range<usize>,
                block: usize,
                sums: &mut [f32],
            ) {
                // SAFETY: the caller's condition.
                unsafe { exact::add::<$vector, $dot>(weights, features, x, tokens, block, sums) }
            }
        }
    };
}

kernels!(scalar, lanes::scalar::Array);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, lanes::avx2::Ymm, #[target_feature(enable = "avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
kernels!(avx512, lanes::avx512::Zmm, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
exact_kernels!(exact_avx2, lanes::avx2::Ymm, lanes::avx2::Apart, #[target_feature(enable = "avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
exact_kernels!(exact_avx512, lanes::avx512::Zmm, lanes::avx512::Apart, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
exact_kernels!(exact_vnni, lanes::avx512::Zmm, lanes::avx512::Vnni, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]);
#[cfg(target_arch = "aarch64")]
kernels!(neon, lanes::neon::Quad, #[target_feature(enable = "neon")]);

impl Kernels {
    /// The kernels of an available instruction set for `m` tokens of a layer, with a low-rank branch or without.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "one kernel for all"))]
    pub(crate) fn of(isa: Isa, tokens: &Tokens<'_>, m: usize, has_branch: bool) -> Self {
        let quantized = matches!(tokens, Tokens::Quantized { .. });
        // A product of two elements of bfloat16 can be subnormal.
        let fits_amx = quantized || matches!(tokens, Tokens::Bf16(_)) && !has_branch;
        let floats = |fma| Self { form: Form::Rows, fma, tiles: None };
        #[cfg(target_arch = "x86_64")]
        let integers = |fma: Fma, exact| match quantized {
            true => Self { form: Form::Integers, fma: Fma { exact: Some(exact), ..fma }, tiles: None },
            false => floats(fma),
        };
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => integers(avx2::KERNELS, exact_avx2::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => integers(avx512::KERNELS, exact_avx512::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if fits_amx && m >= AMX_TOKENS => {
                Self { form: Form::Tiles, fma: avx512::KERNELS, tiles: Some(crate::amx::accumulate) }
            }
            // Every processor with AMX has VNNI.
            #[cfg(target_arch = "x86_64")]
            Isa::Vnni | Isa::Amx => integers(avx512::KERNELS, exact_vnni::KERNELS),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => floats(neon::KERNELS),
            _ => floats(scalar::KERNELS),
        }
    }

    /// Reads a token, see [`crate::prepare::prepare`].
    pub(crate) fn prepare(
        &self,
        tokens: &Tokens<'_>,
        token: usize,
        x: &mut [f32],
        row: usize,
        to: [Option<&mut ValuesMut<'_>>; 2],
    ) -> f32 {
        // SAFETY: `PackedLinear` has checked that the instruction set is available.
        unsafe { (self.fma.prepare)(tokens, token, x, row, to) }
    }

    /// Writes the sums of `panels` over all groups, `acc` `[panel][token][16]`, for the tokens of `x`.
    pub(crate) fn accumulate(&self, matrix: &Matrix, panels: Range<usize>, x: View<'_>, acc: &mut [f32]) {
        assert!(panels.end <= matrix.panels && x.arrangement.groups.blocks >= matrix.groups.blocks);
        acc[..panels.len() * x.tokens * PANEL].fill(0.0);
        // SAFETY: `PackedLinear` has checked that the instruction set is available.
        unsafe {
            match (self.tiles, &self.fma.exact) {
                _ if x.tokens == 0 => {}
                (Some(accumulate), _) => accumulate(matrix, panels, x, acc),
                (None, Some(exact)) if x.tokens <= few::TOKENS => (exact.few)(matrix, panels, x, acc),
                (None, None) if x.tokens <= few::TOKENS => (self.fma.few)(matrix, panels, x, acc),
                (None, _) => many::accumulate(&self.fma, matrix, panels, x, acc),
            }
        }
    }

    /// Turns the sums `acc` `[panel][token][16]` of `panels` into outputs.
    ///
    /// # Safety
    /// The panels exist, and no other thread writes their outputs.
    pub(crate) unsafe fn finish(
        &self,
        epilogue: &Epilogue<'_>,
        panels: Range<usize>,
        acc: &[f32],
        space: &mut Vec<f32>,
    ) {
        // SAFETY: the caller's condition; `PackedLinear` has checked that the instruction set is available.
        unsafe { (self.fma.finish)(epilogue, panels, acc, space) }
    }
}
