//! The kernels of an instruction set, as function pointers.

use std::ops::Range;

use crate::blocks::{Place, Weights};
use crate::exact;
use crate::finish::Epilogue;
use crate::matrix::Matrix;
use crate::operands::Tokens;
use crate::prepare::{ValuesMut, View};
use crate::tiling::PANEL;

/// Adds the sums of panels over all groups.
pub(crate) type Accumulate = unsafe fn(&Matrix, Range<usize>, View<'_>, &mut [f32]);

/// Reads a token.
pub(crate) type Prepare =
    unsafe fn(&Tokens<'_>, usize, &mut [f32], usize, [Option<&mut ValuesMut<'_>>; 2]) -> f32;

/// The kernels by fused multiply-add, see [`crate::few`], [`crate::blocks`] and [`mod@crate::finish`].
pub(crate) struct Fma {
    pub prepare: Prepare,
    pub few: Accumulate,
    pub decode: unsafe fn(&Matrix, Place, &mut Weights),
    pub add: unsafe fn(&Weights, usize, View<'_>, Range<usize>, usize, &mut [f32]),
    pub scale: unsafe fn(&[f32], &[f32; PANEL], &mut [f32]),
    pub finish: unsafe fn(&Epilogue<'_>, Range<usize>, &[f32], &mut Vec<f32>),
    pub exact: Option<Exact>,
}

/// The kernels by products of integers, see [`crate::exact`].
pub(crate) struct Exact {
    pub few: Accumulate,
    pub decode: unsafe fn(&Matrix, Place, &mut exact::Weights) -> bool,
    pub add: unsafe fn(&exact::Weights, usize, View<'_>, Range<usize>, usize, &mut [f32]),
}
