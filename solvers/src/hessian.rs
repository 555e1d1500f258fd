//! The second moment of a layer's input, which GPTQ weighs its rounding errors by.

use std::ops::Range;

use rayon::prelude::*;

use zqc_formats::matrix::{View, product};

/// Rows and columns of a tile: a constant, so that the partition does not depend on the number of threads.
const TILE: usize = 256;

/// Tokens that are summed in `f32` before they are added to the `f64` sums.
pub(crate) const TOKEN_BLOCK: usize = 2048;

/// `H = XᵀX` over all tokens `X` `[T, K]` that reached one distinct layer input.
///
/// The GPTQ paper's factor 2 and the division by the number of tokens are left out: they scale `H` as a whole, and
/// neither the solution nor the damping, which is relative to the diagonal, sees a common factor.
///
/// Blocks of 2048 tokens are multiplied in `f32` and summed in `f64`. Only the tiles on and below the diagonal are held:
/// about `4 K²` bytes, 0.84 GB for `K` = 14336.
#[derive(Clone, Debug)]
pub struct Hessian {
    k: usize,
    tokens: usize,
    tiles: Vec<Tile>,
}

/// A block of `H`, row-major.
#[derive(Clone, Debug)]
struct Tile {
    rows: Range<usize>,
    cols: Range<usize>,
    sums: Vec<f64>,
}

impl Tile {
    fn is_diagonal(&self) -> bool {
        self.rows == self.cols
    }

    /// This tile of `xᵀx`, for `x` `[T, k]`.
    fn gram<'a>(&self, x: &[f32], k: usize, scratch: &'a mut [f32]) -> &'a [f32] {
        let x = View::row_major(x, k);
        let gram = &mut scratch[..self.sums.len()];
        product(gram, x.columns(self.rows.clone()).transposed(), x.columns(self.cols.clone()));
        gram
    }

    /// `<self, gram>`, the sum of the products of their entries.
    fn dot(&self, gram: &[f32]) -> f64 {
        self.sums.iter().zip(gram).map(|(h, &g)| h * f64::from(g)).sum()
    }
}

impl Hessian {
    /// The Hessian of an input of `k` features that no token has reached.
    pub fn new(k: usize) -> Self {
        let span = |start: usize| start..(start + TILE).min(k);
        let tiles = (0..k)
            .step_by(TILE)
            .flat_map(|row| (0..=row).step_by(TILE).map(move |col| (row, col)))
            .map(|(row, col)| {
                let (rows, cols) = (span(row), span(col));
                let sums = vec![0.0; rows.len() * cols.len()];
                Tile { rows, cols, sums }
            })
            .collect();
        Self { k, tokens: 0, tiles }
    }

    /// Input features.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Tokens accumulated.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// `H += xᵀx` for activations `x` `[T, K]`.
    ///
    /// # Panics
    ///
    /// If `x` is not a whole number of tokens.
    pub fn accumulate(&mut self, x: &[f32]) {
        if x.is_empty() {
            return;
        }
        let k = self.k;
        assert!(k > 0 && x.len().is_multiple_of(k), "{} values are no tokens of {k} features", x.len());
        for block in x.chunks(TOKEN_BLOCK * k) {
            self.tiles.par_iter_mut().for_each_init(tile_scratch, |scratch, tile| {
                let gram = tile.gram(block, k, scratch);
                for (sum, &value) in tile.sums.iter_mut().zip(gram) {
                    *sum += f64::from(value);
                }
            });
        }
        self.tokens += x.len() / k;
    }

    /// Adds the tokens of `other`.
    ///
    /// # Panics
    ///
    /// If the numbers of input features differ.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.k, other.k, "Hessians of different inputs");
        self.tiles.par_iter_mut().zip(&other.tiles).for_each(|(tile, other)| {
            for (sum, value) in tile.sums.iter_mut().zip(&other.sums) {
                *sum += value;
            }
        });
        self.tokens += other.tokens;
    }

    /// The mean of the diagonal, 0 when there is none.
    pub fn mean_diagonal(&self) -> f64 {
        self.diagonal().sum::<f64>() / self.k.max(1) as f64
    }

    /// `tr(M H Mᵀ)` for `m` `[N, K]` row-major: the sum of squares of `M`'s output on the accumulated tokens.
    ///
    /// # Panics
    ///
    /// If `m` is not a whole number of rows.
    pub fn output_energy(&self, m: &[f32]) -> f64 {
        if m.is_empty() {
            return 0.0;
        }
        let k = self.k;
        assert!(k > 0 && m.len().is_multiple_of(k), "{} values are no rows of {k}", m.len());
        // tr(M H Mᵀ) = <H, MᵀM>, and the tiles above the diagonal mirror those below.
        let parts: Vec<f64> = self
            .tiles
            .par_iter()
            .map_init(tile_scratch, |scratch, tile| {
                let part: f64 =
                    m.chunks(TOKEN_BLOCK * k).map(|block| tile.dot(tile.gram(block, k, scratch))).sum();
                if tile.is_diagonal() { part } else { 2.0 * part }
            })
            .collect();
        parts.iter().sum()
    }

    /// Input features that are zero on every token.
    pub fn dead_features(&self) -> usize {
        self.diagonal().filter(|&h| h == 0.0).count()
    }

    /// Shrinks the correlations between features towards zero, the more the fewer tokens they were estimated from; the
    /// energy of each feature stays. Returns the intensity, from 0 (nothing changes) to 1 (`H` becomes diagonal).
    ///
    /// Schäfer and Strimmer, "A Shrinkage Approach to Large-Scale Covariance Matrix Estimation" (Statistical Applications in
    /// Genetics and Molecular Biology 4, 2005), target D: `Σ var(r) / Σ r²` over all correlations `r`, here with the variance
    /// that normal features have in a large sample, `(1 - r²)² / (T - 1)`.
    pub fn shrink_correlations(&mut self) -> f64 {
        let diagonal: Vec<f64> = self.diagonal().collect();
        let parts: Vec<(f64, f64)> = self
            .tiles
            .par_iter()
            .map(|tile| {
                let (mut spread, mut energy) = (0.0, 0.0);
                for (row, sums) in tile.rows.clone().zip(tile.sums.chunks_exact(tile.cols.len())) {
                    let below = tile.cols.clone().zip(sums).take_while(|&(col, _)| col < row);
                    for (col, &h) in below.filter(|&(_, &h)| h != 0.0) {
                        let squared = h * h / (diagonal[row] * diagonal[col]);
                        spread += (1.0 - squared).powi(2);
                        energy += squared;
                    }
                }
                (spread, energy)
            })
            .collect();
        let (spread, energy) = parts.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
        let freedom = self.tokens.saturating_sub(1) as f64;
        let intensity = (spread / (freedom * energy)).min(1.0);
        // No correlation to shrink, or a single token, of which all correlations are 1 or -1.
        let intensity = if intensity.is_nan() || freedom == 0.0 { 1.0 } else { intensity };
        self.tiles.par_iter_mut().for_each(|tile| {
            let (rows, cols) = (tile.rows.clone(), tile.cols.clone());
            for (row, sums) in rows.zip(tile.sums.chunks_exact_mut(cols.len())) {
                let others = cols.clone().zip(sums).filter(|&(col, _)| col != row);
                others.for_each(|(_, h)| *h *= 1.0 - intensity);
            }
        });
        intensity
    }

    /// `H / h + λI` `[K, K]`, for `h` the mean of the diagonal and `λ` the `damping`; `None` when `H` is zero.
    pub(crate) fn damped(&self, damping: f64) -> Option<Vec<f32>> {
        let (k, mean) = (self.k, self.mean_diagonal());
        if mean == 0.0 {
            return None;
        }
        let mut dense = vec![0.0; k * k];
        for (row, col, h) in self.lower_triangle() {
            let value = (h / mean + if row == col { damping } else { 0.0 }) as f32;
            dense[row * k + col] = value;
            dense[col * k + row] = value;
        }
        Some(dense)
    }

    /// Whether every entry is finite.
    pub(crate) fn is_finite(&self) -> bool {
        self.tiles.par_iter().all(|tile| tile.sums.iter().all(|h| h.is_finite()))
    }

    /// `H[i][i]` in order.
    pub(crate) fn diagonal(&self) -> impl Iterator<Item = f64> {
        self.tiles
            .iter()
            .filter(|tile| tile.is_diagonal())
            .flat_map(|tile| tile.sums.iter().step_by(tile.cols.len() + 1).copied())
    }

    /// The entries `(row, column, value)` on and below the diagonal, tile by tile.
    pub(crate) fn lower_triangle(&self) -> impl Iterator<Item = (usize, usize, f64)> {
        self.tiles.iter().flat_map(|tile| {
            tile.rows.clone().zip(tile.sums.chunks_exact(tile.cols.len())).flat_map(|(row, sums)| {
                tile.cols
                    .clone()
                    .zip(sums)
                    .take_while(move |&(col, _)| col <= row)
                    .map(move |(col, &h)| (row, col, h))
            })
        })
    }
}

fn tile_scratch() -> Vec<f32> {
    vec![0.0; TILE * TILE]
}

#[cfg(test)]
impl Hessian {
    /// Overwrites an entry of the first tile, as no accumulation could.
    pub(crate) fn tamper(&mut self, row: usize, col: usize, value: f64) {
        let tile = &mut self.tiles[0];
        tile.sums[row * tile.cols.len() + col] = value;
    }
}
