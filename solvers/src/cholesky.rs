//! Cholesky factorization of a dense matrix.

use faer::{
    MatMut, Par,
    dyn_stack::{MemBuffer, MemStack},
    linalg::cholesky::llt::factor::{LltError, cholesky_in_place, cholesky_in_place_scratch},
    traits::RealField,
};

/// Replaces the lower triangle of `matrix` `[k, k]`, column-major, by its Cholesky factor.
///
/// faer splits the outputs among threads, never a sum: the factor does not depend on their number, to which tests hold it.
///
/// # Errors
///
/// When a pivot is not positive.
pub(crate) fn factor_in_place<T: RealField>(matrix: &mut [T], k: usize) -> Result<(), LltError> {
    let par = Par::rayon(0);
    let mut scratch = MemBuffer::new(cholesky_in_place_scratch::<T>(k, par, Default::default()));
    cholesky_in_place(
        MatMut::from_column_major_slice_mut(matrix, k, k),
        Default::default(),
        par,
        MemStack::new(&mut scratch),
        Default::default(),
    )
    .map(drop)
}
