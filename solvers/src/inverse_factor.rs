//! The upper Cholesky factor of an inverse Hessian.

use faer::{MatMut, MatRef, Par, linalg::triangular_inverse::invert_lower_triangular, traits::RealField};

use crate::{Hessian, SolveError, cholesky::factor_in_place};

/// The strongest damping tried before a Hessian is given up.
const MAX_DAMPING: f64 = 1.0;

/// The weakest damping tried when none at all has failed.
const MIN_DAMPING: f64 = 1e-4;

/// `U`, upper triangular with `UᵀU = (PHPᵀ/h + λI)⁻¹`, for `h` the mean of `H`'s diagonal, `λ` the damping and `P` a
/// permutation of the features.
pub(crate) struct InverseFactor {
    /// `Uᵀ` `[K, K]` row-major, that is, `U[i][j]` at `j * K + i`.
    pub transposed: Vec<f32>,
    /// `λ`: what was asked for, or more where the Hessian needed it.
    pub damping: f64,
}

impl InverseFactor {
    /// Factors `hessian` with its features in the order of `permutation`, in `f32` first; then in `f64`, and then with ten times the damping again and again, as long as
    /// a pivot is not positive. A feature that is zero on every token gets a diagonal entry of 1.
    ///
    /// # Errors
    ///
    /// [`SolveError::NonFiniteHessian`], [`SolveError::NoTokens`] or [`SolveError::NotPositiveDefinite`].
    pub fn new(hessian: &Hessian, permutation: &[usize], damping: f64) -> Result<Self, SolveError> {
        if !hessian.is_finite() {
            return Err(SolveError::NonFiniteHessian);
        }
        let mean = hessian.mean_diagonal();
        if mean == 0.0 {
            return Err(SolveError::NoTokens);
        }
        if let Some(transposed) = transposed_factor(hessian, permutation, mean, damping, |x| x as f32, |x| x)
        {
            return Ok(Self { transposed, damping });
        }
        let mut tried = damping;
        loop {
            if let Some(transposed) =
                transposed_factor(hessian, permutation, mean, tried, |x| x, |x| x as f32)
            {
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
    permutation: &[usize],
    mean: f64,
    damping: f64,
    narrow: impl Fn(f64) -> T,
    to_f32: impl Fn(T) -> f32,
) -> Option<Vec<f32>> {
    let k = hessian.k();
    let zero = narrow(0.0);
    let mut position = vec![0; k];
    for (at, &feature) in permutation.iter().rev().enumerate() {
        position[feature] = at;
    }
    let mut reversed = vec![zero; k * k];
    for (row, col, h) in hessian.lower_triangle() {
        let value = if row != col {
            h / mean
        } else if h == 0.0 {
            1.0 + damping
        } else {
            h / mean + damping
        };
        let (row, col) = (position[row], position[col]);
        reversed[row.min(col) * k + row.max(col)] = narrow(value);
    }

    factor_in_place(&mut reversed, k).ok()?;

    let mut inverse = vec![zero; k * k];
    invert_lower_triangular(
        MatMut::from_column_major_slice_mut(&mut inverse, k, k),
        MatRef::from_column_major_slice(&reversed, k, k),
        Par::rayon(0),
    );
    let transposed: Vec<f32> = inverse.into_iter().rev().map(to_f32).collect();
    transposed.iter().all(|value| value.is_finite()).then_some(transposed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of 4 waves and a pseudo-random residue a thousandth as large: rank 4 but for 1e-7 of its energy. The features
    /// are integers whose products `f32` holds exactly.
    fn nearly_singular(k: usize) -> Hessian {
        let mut hessian = Hessian::new(k);
        for token in 0..2 * k {
            let feature = |i: usize| {
                let waves: f32 = (1..5).map(|w| ((token * w) as f32).sin() * ((i * w) as f32).cos()).sum();
                (1000.0 * waves).round() + ((token * 7919 + i * i * 104_729) % 1009 % 3) as f32 - 1.0
            };
            hessian.accumulate(&(0..k).map(feature).collect::<Vec<_>>());
        }
        hessian
    }

    #[test]
    fn f64_factors_what_f32_cannot() {
        let (hessian, damping) = (nearly_singular(200), 1e-8);
        let mean = hessian.mean_diagonal();
        let order: Vec<usize> = (0..200).collect();
        assert!(transposed_factor(&hessian, &order, mean, damping, |x| x as f32, |x| x).is_none());
        let factor = InverseFactor::new(&hessian, &order, damping).unwrap();
        assert_eq!(factor.damping, damping);
    }

    #[test]
    fn factor_inverts_the_damped_hessian() {
        let (hessian, damping, k) = (nearly_singular(40), 0.1, 40);
        let order: Vec<usize> = (0..k).map(|at| at * 7 % k).collect();
        let factor = InverseFactor::new(&hessian, &order, damping).unwrap().transposed;
        let mut a = vec![0.0; k * k];
        for (row, col, h) in hessian.lower_triangle() {
            let value = h / hessian.mean_diagonal() + if row == col { damping } else { 0.0 };
            (a[row * k + col], a[col * k + row]) = (value, value);
        }
        // With A in that order, U A Uᵀ is the identity exactly when UᵀU is the inverse of A.
        let u = |i: usize, j: usize| f64::from(factor[j * k + i]);
        for (i, j) in (0..k).flat_map(|i| (0..k).map(move |j| (i, j))) {
            assert!(i <= j || u(i, j) == 0.0, "not upper triangular at ({i}, {j})");
            let product: f64 = (0..k)
                .map(|p| (0..k).map(|q| u(i, p) * a[order[p] * k + order[q]] * u(j, q)).sum::<f64>())
                .sum();
            assert!((product - f64::from(i == j)).abs() < 1e-4, "({i}, {j}): {product}");
        }
    }

    #[test]
    fn an_indefinite_hessian_is_refused() {
        let mut hessian = Hessian::new(2);
        hessian.accumulate(&[1.0, 2.0]);
        hessian.tamper(1, 0, 100.0);
        let error = InverseFactor::new(&hessian, &[0, 1], 0.01).err();
        assert!(matches!(error, Some(SolveError::NotPositiveDefinite { .. })));
    }

    #[test]
    fn factor_does_not_depend_on_the_number_of_threads() {
        for k in [100, 577, 1536] {
            let mut hessian = Hessian::new(k);
            hessian.accumulate(&(0..k * k).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>());
            let mean = hessian.mean_diagonal();
            let order: Vec<usize> = (0..k).collect();
            let factors = |threads| {
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                    (
                        transposed_factor(&hessian, &order, mean, 0.01, |x| x as f32, |x| x).unwrap(),
                        transposed_factor(&hessian, &order, mean, 0.01, |x| x, |x| x as f32).unwrap(),
                    )
                })
            };
            let alone = factors(1);
            for threads in [2, 3, 8] {
                assert!(factors(threads) == alone, "K = {k}, {threads} threads");
            }
        }
    }
}
