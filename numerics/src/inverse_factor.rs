//! The upper Cholesky factor of an inverse Hessian.

use faer::{
    MatMut, MatRef, Par,
    dyn_stack::{MemBuffer, MemStack},
    linalg::{
        cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch},
        triangular_inverse::invert_lower_triangular,
    },
    traits::RealField,
};

use crate::{Hessian, SolveError};

/// The strongest damping tried before a Hessian is given up.
const MAX_DAMPING: f64 = 1.0;

/// The weakest damping tried when none at all has failed.
const MIN_DAMPING: f64 = 1e-4;

/// `U`, upper triangular with `UᵀU = (H/h + λI)⁻¹`, for `h` the mean of `H`'s diagonal and `λ` the damping.
pub(crate) struct InverseFactor {
    /// `Uᵀ` `[K, K]` row-major, that is, `U[i][j]` at `j * K + i`.
    pub transposed: Vec<f32>,
    /// `λ`: what was asked for, or more where the Hessian needed it.
    pub damping: f64,
}

impl InverseFactor {
    /// Factors `hessian`, in `f32` first; then in `f64`, and then with ten times the damping again and again, as long as
    /// a pivot is not positive. A feature that is zero on every token gets a diagonal entry of 1.
    ///
    /// # Errors
    ///
    /// [`SolveError::NonFiniteHessian`], [`SolveError::NoTokens`] or [`SolveError::NotPositiveDefinite`].
    pub fn new(hessian: &Hessian, damping: f64) -> Result<Self, SolveError> {
        if !hessian.is_finite() {
            return Err(SolveError::NonFiniteHessian);
        }
        let mean = hessian.mean_diagonal();
        if mean == 0.0 {
            return Err(SolveError::NoTokens);
        }
        if let Some(transposed) = transposed_factor(hessian, mean, damping, |x| x as f32, |x| x) {
            return Ok(Self { transposed, damping });
        }
        let mut tried = damping;
        loop {
            if let Some(transposed) = transposed_factor(hessian, mean, tried, |x| x, |x| x as f32) {
                return Ok(Self { transposed, damping: tried });
            }
            let stronger = (10.0 * tried).max(MIN_DAMPING);
            if stronger > MAX_DAMPING {
                return Err(SolveError::NotPositiveDefinite { damping: tried });
            }
            tried = stronger;
        }
    }
}

/// `Uᵀ` computed in the precision `T`, or `None` where a pivot is not positive.
///
/// The GPTQ paper factors, inverts and factors again. One factorization is enough: with `J` the reversal of the order and
/// `J A J = L Lᵀ`, the upper triangular `U = J L⁻¹ J` has `UᵀU = A⁻¹`. Reversing rows and columns of a dense matrix is
/// reversing its elements.
fn transposed_factor<T: RealField + Copy>(
    hessian: &Hessian,
    mean: f64,
    damping: f64,
    narrow: impl Fn(f64) -> T,
    to_f32: impl Fn(T) -> f32,
) -> Option<Vec<f32>> {
    let k = hessian.k();
    let zero = narrow(0.0);
    let mut reversed = vec![zero; k * k];
    for (row, col, h) in hessian.lower_triangle() {
        let value = match row == col {
            true if h == 0.0 => 1.0 + damping,
            true => h / mean + damping,
            false => h / mean,
        };
        reversed[(k - 1 - row) * k + (k - 1 - col)] = narrow(value);
    }

    let mut scratch = MemBuffer::new(cholesky_in_place_scratch::<T>(k, Par::Seq, Default::default()));
    cholesky_in_place(
        MatMut::from_column_major_slice_mut(&mut reversed, k, k),
        Default::default(),
        Par::Seq,
        MemStack::new(&mut scratch),
        Default::default(),
    )
    .ok()?;

    let mut inverse = vec![zero; k * k];
    invert_lower_triangular(
        MatMut::from_column_major_slice_mut(&mut inverse, k, k),
        MatRef::from_column_major_slice(&reversed, k, k),
        Par::Seq,
    );
    let transposed: Vec<f32> = inverse.into_iter().rev().map(to_f32).collect();
    transposed.iter().all(|value| value.is_finite()).then_some(transposed)
}
