//! The groups of a panel, one after the other.

use crate::lanes::{Decode, Lanes};
use crate::matrix::{Coding, Groups, LINE, Matrix, PANEL, Steps};

/// The groups of a panel.
pub(crate) struct Walk<'a, V: Lanes, D> {
    matrix: &'a Matrix,
    panel: usize,
    pub(crate) decode: D,
    factors: V::Table,
    lines: *const u8,
    lines_each: usize,
}

impl<'a, V: Lanes, D: Decode<V>> Walk<'a, V, D> {
    /// # Safety
    /// The instruction set of `V` is enabled; `panel` exists.
    #[inline(always)]
    pub(crate) unsafe fn new(matrix: &'a Matrix, panel: usize) -> Self {
        let values = match &matrix.coding {
            Coding::Nibbles(values) => values,
            _ => &[0.0; 16],
        };
        let factors = match &matrix.steps {
            Steps::Ladder(factors, _) => factors,
            _ => &[0.0; 16],
        };
        let lines = matrix.lines[panel * matrix.lines_of_panel()..].as_ptr().cast();
        // SAFETY: the caller's condition.
        let (decode, factors) = unsafe { (D::new(values), V::table(factors)) };
        Self { matrix, panel, decode, factors, lines, lines_each: matrix.groups.size.div_ceil(D::COLUMNS) }
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

    /// The zero points of a group, if weights have any.
    ///
    /// # Safety
    /// As of [`Walk::new`].
    #[inline(always)]
    pub(crate) unsafe fn zero_point<const ZERO_POINTS: bool>(&self, g: usize, part: usize) -> V {
        // SAFETY: the caller's condition.
        unsafe {
            if ZERO_POINTS {
                let lanes = &self.matrix.zero_points[self.panel * self.matrix.groups.count + g];
                V::load_i8(lanes[part * V::COUNT..].as_ptr())
            } else {
                V::splat(0.0)
            }
        }
    }

    /// The steps of a group.
    ///
    /// # Safety
    /// As of [`Walk::new`].
    #[inline(always)]
    pub(crate) unsafe fn step(&self, g: usize, part: usize) -> V {
        let at = self.panel * self.matrix.groups.count + g;
        // SAFETY: the caller's condition.
        unsafe {
            match &self.matrix.steps {
                Steps::One => V::splat(1.0),
                Steps::Ladder(_, words) => V::ladder(self.factors, words[at], part),
                Steps::Floats(scales) => V::load(scales[at][part * V::COUNT..].as_ptr()),
            }
        }
    }

    /// Adds the sums of a group to those of the groups before, `acc` `[T][16]`.
    ///
    /// # Safety
    /// As of [`Walk::new`].
    #[inline(always)]
    pub(crate) unsafe fn finish<const T: usize>(&self, g: usize, part: usize, sums: [V; T], acc: &mut [f32]) {
        // SAFETY: the caller's condition; every pointer is to a part of a panel.
        unsafe {
            let step = self.step(g, part);
            for (sum, acc) in sums.into_iter().zip(acc.chunks_exact_mut(PANEL)) {
                let acc = acc[part * V::COUNT..].as_mut_ptr();
                sum.fma(step, V::load(acc)).store(acc);
            }
        }
    }
}

/// As [`Walk::finish`], of sums in memory, `[token][16]`, for vectors of a whole panel.
///
/// # Safety
/// The instruction set of `V` is enabled, and its vectors hold a panel.
#[inline(always)]
pub(crate) unsafe fn add_tile<V: Lanes>(sums: &[f32], step: V, acc: &mut [f32]) {
    let sums = sums.as_chunks::<PANEL>().0;
    // Four rows at once spare most of the counting.
    let (fours, rest) = acc.as_chunks_mut::<PANEL>().0.as_chunks_mut::<4>();
    let last = &sums[4 * fours.len()..];
    for (sums, acc) in sums.as_chunks::<4>().0.iter().zip(fours) {
        for (sums, acc) in sums.iter().zip(acc) {
            // SAFETY: the caller's condition.
            unsafe { add_row(sums, step, acc) };
        }
    }
    for (sums, acc) in last.iter().zip(rest) {
        // SAFETY: the caller's condition.
        unsafe { add_row(sums, step, acc) };
    }
}

/// Adds the sums of a group to those of the groups before, for one token.
///
/// # Safety
/// The instruction set of `V` is enabled, and its vectors hold a panel.
#[inline(always)]
unsafe fn add_row<V: Lanes>(sums: &[f32; PANEL], step: V, acc: &mut [f32; PANEL]) {
    // SAFETY: the caller's condition.
    unsafe { V::load(sums.as_ptr()).fma(step, V::load(acc.as_ptr())).store(acc.as_mut_ptr()) }
}
