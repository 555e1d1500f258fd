//! LoRC: the low-rank branch that repairs what rounding lost.
//!
//! Yao et al., "ZeroQuant-V2" (arXiv 2303.08302): the truncated singular value decomposition of the error
//! `E = W - Ŵ`. Weighted by the second moment of the activations it repairs the layer's output instead (as in QERA,
//! arXiv 2410.06040, and EoRA, arXiv 2410.21271).

use faer::{
    MatMut, MatRef, Par,
    diag::DiagMut,
    dyn_stack::{MemBuffer, MemStack},
    linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch},
};

use zqc_formats::{
    FactorFormat, LowRank,
    matrix::{matmul, transpose},
};

use crate::{Hessian, SolveError, weight::check_weight};

/// What is added to the diagonal of `H`, relative to its mean: so much that the branch repairs weights as well as outputs.
/// In a simulation on SmolLM2-135M 0.01, 0.1, 1 and 10 differed by about 1 % in perplexity, 1 being the best.
const DAMPING: f64 = 1.0;

/// Subspace dimensions beyond the rank.
const OVERSAMPLING: usize = 8;

/// Subspace iterations.
const ITERATIONS: usize = 4;

/// In which norm the branch is the best.
pub struct Metric {
    /// `H / h + λI` `[K, K]`, for `h` the mean of `H`'s diagonal; `None` for the identity.
    weight: Option<Vec<f32>>,
}

impl Metric {
    /// The Frobenius norm of the weight: plain LoRC, which needs no data.
    pub fn plain() -> Self {
        Self { weight: None }
    }

    /// The energy of the layer's output on the tokens of `hessian`, damped. That of a Hessian of zeros is the plain one.
    pub fn activation(hessian: &Hessian) -> Self {
        Self { weight: hessian.damped(DAMPING) }
    }
}

/// The matrix of rank `rank`, or less where the shape allows no more, that is nearest to `error` `[rows, cols]`.
///
/// With `M` the metric and `Q` the eigenvectors of the largest eigenvalues of `E M Eᵀ`, that is `Q (Qᵀ E)`: the truncated
/// singular value decomposition of `E M^½`, multiplied by `M^-½`. `Q` is found by randomized subspace iteration (Halko,
/// Martinsson, Tropp, SIAM Review 53, 2011, algorithm 4.4), always from the same start.
///
/// # Errors
///
/// Those of [`LowRank::from_factors`], and [`SolveError::NonFiniteWeight`] for an error that is not finite.
pub fn lorc(
    error: &[f32],
    rows: usize,
    cols: usize,
    rank: usize,
    metric: &Metric,
    format: FactorFormat,
) -> Result<LowRank, SolveError> {
    check_weight(error, rows, cols)?;
    let rank = rank.min(rows).min(cols);
    let width = (rank + OVERSAMPLING).min(rows);
    let transposed = transpose(error, rows, cols);
    // Vectors are rows: `[width, rows]`.
    let image = |basis: &[f32]| {
        let mut projected = vec![0.0; width * cols];
        matmul(basis, &transposed, &mut projected, width, rows, cols);
        if let Some(weight) = &metric.weight {
            let unweighted = projected.clone();
            matmul(&unweighted, weight, &mut projected, width, cols, cols);
        }
        let mut image = vec![0.0; width * rows];
        matmul(&projected, error, &mut image, width, cols, rows);
        image
    };
    let mut basis = start(width, rows);
    orthonormalize(&mut basis, rows);
    for _ in 0..ITERATIONS {
        basis = image(&basis);
        orthonormalize(&mut basis, rows);
    }
    let leading = leading_vectors(&basis, &image(&basis), width, rows, rank)?;
    let mut down = vec![0.0; rank * cols];
    matmul(&leading, &transposed, &mut down, rank, rows, cols);
    Ok(LowRank::from_factors(&transpose(&leading, rank, rows), &down, [rows, rank, cols], format)?)
}

/// Pseudo-random rows to start from, uniform in -1..1: Knuth's MMIX linear congruential generator.
fn start(width: usize, rows: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..width * rows).map(|_| uniform()).collect()
}

/// Makes the rows orthonormal, one after the other (Gram-Schmidt, twice); a row that depends on those before it
/// becomes zero.
fn orthonormalize(basis: &mut [f32], len: usize) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    for at in 0..basis.len() / len {
        let (before, row) = basis.split_at_mut(at * len);
        let row = &mut row[..len];
        let length = dot(row, row).sqrt();
        for _ in 0..2 {
            for earlier in before.chunks_exact(len) {
                let share = dot(row, earlier) as f32;
                row.iter_mut().zip(earlier).for_each(|(value, earlier)| *value -= share * earlier);
            }
        }
        let remaining = dot(row, row).sqrt();
        let scale = if remaining > 1e-6 * length { 1.0 / remaining } else { 0.0 };
        row.iter_mut().for_each(|value| *value = (f64::from(*value) * scale) as f32);
    }
}

/// The `rank` leading eigenvectors, as rows `[rank, rows]`, of the operator that maps the orthonormal `basis` `[width, rows]`
/// to `image`, within the space of the basis (Rayleigh-Ritz).
fn leading_vectors(
    basis: &[f32],
    image: &[f32],
    width: usize,
    rows: usize,
    rank: usize,
) -> Result<Vec<f32>, SolveError> {
    let mut products = vec![0.0; width * width];
    matmul(basis, image, &mut products, width, rows, width);
    let symmetric: Vec<f64> = (0..width * width)
        .map(|at| f64::from(products[at]) + f64::from(products[at % width * width + at / width]))
        .collect();
    let mut values = vec![0.0; width];
    let mut vectors = vec![0.0; width * width];
    let compute = ComputeEigenvectors::Yes;
    let scratch = self_adjoint_evd_scratch::<f64>(width, compute, Par::Seq, Default::default());
    self_adjoint_evd(
        MatRef::from_column_major_slice(&symmetric, width, width),
        DiagMut::from_slice_mut(&mut values),
        Some(MatMut::from_column_major_slice_mut(&mut vectors, width, width)),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .map_err(|_| SolveError::Overflow)?;
    // Eigenvalues ascend, and a vector is a column.
    let leading: Vec<f32> =
        vectors.chunks_exact(width).rev().take(rank).flatten().map(|&value| value as f32).collect();
    let mut rotated = vec![0.0; rank * rows];
    matmul(&leading, &transpose(basis, width, rows), &mut rotated, rank, width, rows);
    Ok(rotated)
}
