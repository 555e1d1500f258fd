//! Dense matrices: `f32` products on the `gemm` crate, and the transpose.

use gemm::{Parallelism, gemm};
use rayon::prelude::*;

/// Tokens of one task of [`matmul`]: a constant, so that the partition does not depend on the number of threads.
const TOKEN_BLOCK: usize = 128;

/// `out = x wᵀ` for activations `x` `[t, k]`, a weight `w` `[n, k]` and `out` `[t, n]`, all row-major.
///
/// # Panics
///
/// If a slice does not have the length of its shape.
pub fn matmul(x: &[f32], w: &[f32], out: &mut [f32], t: usize, k: usize, n: usize) {
    assert_eq!(x.len(), t * k, "x is not [{t}, {k}]");
    assert_eq!(w.len(), n * k, "w is not [{n}, {k}]");
    assert_eq!(out.len(), t * n, "out is not [{t}, {n}]");
    if k == 0 {
        out.fill(0.0);
        return;
    }
    if n == 0 {
        return;
    }
    out.par_chunks_mut(TOKEN_BLOCK * n).zip(x.par_chunks(TOKEN_BLOCK * k)).for_each(|(out, x)| {
        let x = View::row_major(x, k);
        product(out, x, View::row_major(w, k).transposed());
    });
}

/// Columns that one rayon task of [`transpose`] takes: about a cache line of every row.
const TRANSPOSED_COLUMNS: usize = 64;

/// The transpose `[cols, rows]` of a `[rows, cols]` matrix, both row-major.
///
/// # Panics
///
/// If `matrix` is not `[rows, cols]`.
pub fn transpose<T: Copy + Send + Sync>(matrix: &[T], rows: usize, cols: usize) -> Vec<T> {
    assert_eq!(matrix.len(), rows * cols, "the matrix is not [{rows}, {cols}]");
    let mut transposed = matrix.to_vec();
    if matrix.is_empty() {
        return transposed;
    }
    transposed.par_chunks_mut(TRANSPOSED_COLUMNS * rows).enumerate().for_each(|(task, out)| {
        let (start, width) = (task * TRANSPOSED_COLUMNS, out.len() / rows);
        for (at, row) in matrix.chunks_exact(cols).enumerate() {
            for (col, &value) in row[start..start + width].iter().enumerate() {
                out[col * rows + at] = value;
            }
        }
    });
    transposed
}

/// A strided matrix in a slice.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// All rows of a row-major matrix of `cols` columns.
    pub fn row_major(data: &'a [f32], cols: usize) -> Self {
        Self { data, rows: data.len() / cols, cols, row_stride: cols, col_stride: 1 }
    }

    /// The columns `cols` of `self`, which must not be empty.
    pub fn columns(self, cols: std::ops::Range<usize>) -> Self {
        assert!(cols.end <= self.cols);
        Self { data: &self.data[cols.start * self.col_stride..], cols: cols.len(), ..self }
    }

    /// The transpose.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Whether every element lies inside the slice.
    fn is_in_bounds(&self) -> bool {
        self.rows == 0
            || self.cols == 0
            || (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride < self.data.len()
    }
}

/// `dst = lhs rhs`, with `dst` row-major, on the calling thread alone.
pub fn product(dst: &mut [f32], lhs: View<'_>, rhs: View<'_>) {
    single_threaded(dst, false, 1.0, lhs, rhs);
}

/// `dst -= lhs rhs`, with `dst` row-major, on the calling thread alone.
pub fn subtract_product(dst: &mut [f32], lhs: View<'_>, rhs: View<'_>) {
    single_threaded(dst, true, -1.0, lhs, rhs);
}

fn single_threaded(dst: &mut [f32], accumulate: bool, factor: f32, lhs: View<'_>, rhs: View<'_>) {
    assert_eq!(lhs.cols, rhs.rows);
    assert_eq!(dst.len(), lhs.rows * rhs.cols);
    assert!(lhs.is_in_bounds() && rhs.is_in_bounds());
    // SAFETY: `dst` is exclusive and dense with the product's shape, both operands are in bounds of their slices, and
    // the dimensions agree, all asserted above.
    unsafe {
        gemm(
            lhs.rows,
            rhs.cols,
            lhs.cols,
            dst.as_mut_ptr(),
            1,
            rhs.cols as isize,
            accumulate,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
