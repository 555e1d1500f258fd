//! Calibration tokens that a layer is not solved on.

use zqc_formats::matrix::matmul;

/// Tokens whose outputs are computed together.
const BLOCK: usize = 512;

/// Calibration tokens `X` `[T, K]` of a layer that its weight is not solved on, to tell how far a solution holds on tokens
/// that it was not fitted to.
#[derive(Clone, Debug)]
pub struct HeldOut {
    k: usize,
    x: Vec<f32>,
}

impl HeldOut {
    /// No token yet, of `k` features.
    pub fn new(k: usize) -> Self {
        Self { k, x: Vec::new() }
    }

    /// Adds the tokens `x` `[T, K]`.
    ///
    /// # Panics
    ///
    /// If `x` is not a whole number of tokens.
    pub fn add(&mut self, x: &[f32]) {
        assert!(
            x.is_empty() || self.k > 0 && x.len().is_multiple_of(self.k),
            "{} values are no tokens of {} features",
            x.len(),
            self.k
        );
        self.x.extend_from_slice(x);
    }

    /// Tokens held out.
    pub fn tokens(&self) -> usize {
        self.x.len() / self.k.max(1)
    }

    /// The tokens, `[T, K]`.
    pub fn values(&self) -> &[f32] {
        &self.x
    }

    /// `|X Mᵀ|²` for `m` `[N, K]` row-major: the sum of squares of `M`'s output on the tokens.
    ///
    /// # Panics
    ///
    /// If `m` is not a whole number of rows.
    pub fn output_energy(&self, m: &[f32]) -> f64 {
        if m.is_empty() || self.x.is_empty() {
            return 0.0;
        }
        let n = m.len() / self.k;
        let mut outputs = vec![0.0; BLOCK.min(self.tokens()) * n];
        let mut energy = 0.0;
        for x in self.x.chunks(BLOCK * self.k) {
            let tokens = x.len() / self.k;
            let outputs = &mut outputs[..tokens * n];
            matmul(x, m, outputs, tokens, self.k, n);
            energy += outputs.iter().map(|&y| f64::from(y) * f64::from(y)).sum::<f64>();
        }
        energy
    }
}
