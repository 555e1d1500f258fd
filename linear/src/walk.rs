//! The groups of a panel, one after the other.

use crate::lanes::{Decode, Lanes};
use crate::matrix::{GroupScales, Groups, Matrix};
use crate::tiling::{LINE, PANEL};

/// The groups of a panel.
pub(crate) struct Walk<'a, V: Lanes, D> {
    matrix: &'a Matrix,
    panel: usize,
    pub(crate) decode: D,
    operands: V::Table,
    lines: *const u8,
    lines_each: usize,
}

impl<'a, V: Lanes, D: Decode<V>> Walk<'a, V, D> {
    /// # Safety
    /// The instruction set of `V` is enabled; `panel` exists.
    #[inline(always)]
    pub(crate) unsafe fn new(matrix: &'a Matrix, panel: usize) -> Self {
        let operands = match &matrix.scales {
            GroupScales::Ladder(_, operands, _) => operands,
            GroupScales::One | GroupScales::Floats(_) => &[0.0; 16],
        };
        let lines = matrix.lines[panel * matrix.lines_of_panel()..].as_ptr().cast();
        // SAFETY: the caller's condition.
        let (decode, operands) = unsafe { (D::new(&matrix.codebook), V::table(operands)) };
        Self { matrix, panel, decode, operands, lines, lines_each: matrix.groups.size.div_ceil(D::COLUMNS) }
    }

    /// The lines of a group.
    ///
    /// # Safety
    /// The group exists.
    #[inline(always)]
    pub(crate) unsafe fn lines(&self, g: usize) -> *const u8 {
        // SAFETY: the caller's condition.
        unsafe { self.lines.add(g * self.lines_each * LINE) }
    }

    /// How input features are divided.
    pub(crate) fn groups(&self) -> Groups {
        self.matrix.groups
    }

    /// What weights that are integers are multiples of.
    #[inline(always)]
    pub(crate) fn unit(&self) -> f32 {
        self.matrix.codebook.unit
    }

    /// Where the zero points and the scales of a group are.
    #[inline(always)]
    pub(crate) fn at(&self, g: usize) -> usize {
        self.panel * self.matrix.groups.count + g
    }

    /// The zero points of a group of a weight that has some; an address that is not to be read where it has none.
    #[inline(always)]
    pub(crate) fn zero_points(&self, g: usize, part: usize) -> *const i8 {
        let points = self.matrix.zero_points.get(self.at(g));
        points.map_or(std::ptr::null(), |points| points[part * V::COUNT..].as_ptr())
    }

    /// The shifts of a group of a weight that has some, see [`GroupScales::Ladder`], or 0.
    #[inline(always)]
    pub(crate) fn shifts(&self, g: usize) -> u64 {
        match &self.matrix.scales {
            GroupScales::Ladder(_, _, words) => words[self.at(g)],
            GroupScales::One | GroupScales::Floats(_) => 0,
        }
    }

    /// Adds the sums of a group to those of the groups before, `acc` `[T][16]`.
    ///
    /// # Safety
    /// As of [`Walk::new`]; the group exists, and has a scale.
    #[inline(always)]
    pub(crate) unsafe fn add_group<const T: usize>(
        &self,
        g: usize,
        part: usize,
        sums: [V; T],
        acc: &mut [f32],
    ) {
        // SAFETY: the caller's condition; every pointer is to a part of a panel.
        unsafe {
            let scale = self.scale(g, part);
            for (sum, acc) in sums.into_iter().zip(acc.chunks_exact_mut(PANEL)) {
                let acc = acc[part * V::COUNT..].as_mut_ptr();
                sum.fma(scale, V::load(acc)).store(acc);
            }
        }
    }

    /// The scales that the sums of a group are multiplied by.
    ///
    /// # Safety
    /// As of [`Walk::add_group`].
    #[inline(always)]
    pub(crate) unsafe fn scale(&self, g: usize, part: usize) -> V {
        // SAFETY: the caller's condition.
        unsafe {
            match &self.matrix.scales {
                GroupScales::Floats(scales) => V::load(scales[self.at(g)][part * V::COUNT..].as_ptr()),
                GroupScales::One | GroupScales::Ladder(..) => V::splat(1.0),
            }
        }
    }
}

/// What groups mean to the weights of a row and to their sums.
pub(crate) trait Grouping {
    /// Whether one sum runs through all groups, or each has a sum of its own, which its scale is for.
    const THROUGH: bool;

    /// What the weights of a group are changed by, or their sums multiplied.
    ///
    /// # Safety
    /// As of [`Walk::new`]; the group exists.
    unsafe fn operand<V: Lanes, D: Decode<V>>(walk: &Walk<'_, V, D>, g: usize, part: usize) -> V;

    /// The weights of decoded codes.
    ///
    /// # Safety
    /// The instruction set of `V` is enabled.
    unsafe fn weight<V: Lanes>(value: V, operand: V) -> V;
}

/// Groups with a scale.
pub(crate) struct Scaled;

/// Groups with a scale and zero points.
pub(crate) struct Centred;

/// Groups with a factor of a ladder, or one group for all.
pub(crate) struct Through;

/// Groups with a step of [`Ladder::M8`](zqc_formats::Ladder).
pub(crate) struct Stepped;

impl Grouping for Scaled {
    const THROUGH: bool = false;

    #[inline(always)]
    unsafe fn operand<V: Lanes, D: Decode<V>>(_walk: &Walk<'_, V, D>, _g: usize, _part: usize) -> V {
        // SAFETY: the caller's condition.
        unsafe { V::splat(0.0) }
    }

    #[inline(always)]
    unsafe fn weight<V: Lanes>(value: V, _operand: V) -> V {
        value
    }
}

impl Grouping for Centred {
    const THROUGH: bool = false;

    #[inline(always)]
    unsafe fn operand<V: Lanes, D: Decode<V>>(walk: &Walk<'_, V, D>, g: usize, part: usize) -> V {
        // SAFETY: the caller's condition.
        unsafe { V::load_i8(walk.zero_points(g, part)) }
    }

    #[inline(always)]
    unsafe fn weight<V: Lanes>(value: V, operand: V) -> V {
        // SAFETY: the caller's condition.
        unsafe { value.sub(operand) }
    }
}

impl Grouping for Through {
    const THROUGH: bool = true;

    #[inline(always)]
    unsafe fn operand<V: Lanes, D: Decode<V>>(walk: &Walk<'_, V, D>, g: usize, part: usize) -> V {
        // SAFETY: the caller's condition.
        unsafe {
            match &walk.matrix.scales {
                GroupScales::Ladder(_, _, words) => V::ladder(walk.operands, words[walk.at(g)], part),
                GroupScales::One | GroupScales::Floats(_) => V::splat(1.0),
            }
        }
    }

    #[inline(always)]
    unsafe fn weight<V: Lanes>(value: V, operand: V) -> V {
        // SAFETY: the caller's condition.
        unsafe { value.mul(operand) }
    }
}

impl Grouping for Stepped {
    const THROUGH: bool = true;

    #[inline(always)]
    unsafe fn operand<V: Lanes, D: Decode<V>>(walk: &Walk<'_, V, D>, g: usize, part: usize) -> V {
        // SAFETY: the caller's condition.
        unsafe { V::ladder(walk.operands, walk.shifts(g), part) }
    }

    #[inline(always)]
    unsafe fn weight<V: Lanes>(value: V, operand: V) -> V {
        // SAFETY: the caller's condition.
        unsafe { value.sub_bits(operand) }
    }
}

/// As [`Walk::add_group`], of sums in memory, `[token][16]`, for vectors of a whole panel.
///
/// # Safety
/// The instruction set of `V` is enabled, and its vectors hold a panel.
#[inline(always)]
pub(crate) unsafe fn add_tile<V: Lanes>(sums: &[f32], scale: V, acc: &mut [f32]) {
    let sums = sums.as_chunks::<PANEL>().0;
    // Four rows at once spare most of the counting.
    let (fours, rest) = acc.as_chunks_mut::<PANEL>().0.as_chunks_mut::<4>();
    let last = &sums[4 * fours.len()..];
    for (sums, acc) in sums.as_chunks::<4>().0.iter().zip(fours) {
        for (sums, acc) in sums.iter().zip(acc) {
            // SAFETY: the caller's condition.
            unsafe { add_row(sums, scale, acc) };
        }
    }
    for (sums, acc) in last.iter().zip(rest) {
        // SAFETY: the caller's condition.
        unsafe { add_row(sums, scale, acc) };
    }
}

/// Adds the sums of a group to those of the groups before, for one token.
///
/// # Safety
/// The instruction set of `V` is enabled, and its vectors hold a panel.
#[inline(always)]
unsafe fn add_row<V: Lanes>(sums: &[f32; PANEL], scale: V, acc: &mut [f32; PANEL]) {
    // SAFETY: the caller's condition.
    unsafe { V::load(sums.as_ptr()).fma(scale, V::load(acc.as_ptr())).store(acc.as_mut_ptr()) }
}
