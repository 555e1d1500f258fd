//! A low-rank matrix that is added to a quantized one.

use half::bf16;

use crate::{
    Format, FormatError, check_length,
    grid::max_abs,
    matrix::{matmul, transpose},
};

/// A matrix `U diag(s) V` of rank `R` that repairs a quantized weight `[N, K]`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LowRank {
    /// `R`.
    pub rank: usize,
    /// Output features, `N`.
    pub rows: usize,
    /// Input features, `K`.
    pub cols: usize,
    /// `U` and `V`.
    pub factors: Factors,
    /// `s`, `[R]`.
    pub scales: Vec<f32>,
}

/// The codes of the factors of a [`LowRank`].
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Factors {
    /// FP8 E4M3.
    E4M3 {
        /// `U`, `[N, R]`.
        up: Vec<u8>,
        /// `V`, `[R, K]`.
        down: Vec<u8>,
    },
    /// bfloat16.
    Bf16 {
        /// `U`, `[N, R]`.
        up: Vec<u16>,
        /// `V`, `[R, K]`.
        down: Vec<u16>,
    },
}

/// Number format of the factors of a [`LowRank`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FactorFormat {
    /// FP8 E4M3.
    E4M3,
    /// bfloat16.
    Bf16,
}

impl FactorFormat {
    /// Bits of a code.
    pub const fn bits(self) -> u32 {
        match self {
            Self::E4M3 => 8,
            Self::Bf16 => 16,
        }
    }

    /// Divides `values` such that the largest magnitude becomes what the format holds best: the largest value of E4M3,
    /// whose range is narrow, and 1 in bfloat16. Returns the divisor.
    fn normalize(self, values: &mut [f32]) -> f64 {
        let peak = match self {
            Self::E4M3 => Format::E4M3.max(),
            Self::Bf16 => 1.0,
        };
        let largest = f64::from(max_abs(values));
        let divisor = if largest == 0.0 { 1.0 } else { largest / f64::from(peak) };
        values.iter_mut().for_each(|value| *value = (f64::from(*value) / divisor) as f32);
        divisor
    }
}

impl LowRank {
    /// `up down`, for `up` `[rows, rank]` and `down` `[rank, cols]`, with the factors rounded to `format`. Every column of
    /// `up` and row of `down` is first scaled to use the format best; the component's scale takes the rest.
    ///
    /// # Errors
    ///
    /// [`FormatError::Empty`] without rows, columns or components, [`FormatError::Length`], and [`FormatError::Overflow`] when a
    /// factor is not finite or a scale leaves the range of `f32`.
    pub fn from_factors(
        up: &[f32],
        down: &[f32],
        [rows, rank, cols]: [usize; 3],
        format: FactorFormat,
    ) -> Result<Self, FormatError> {
        for [rows, cols] in [[rows, rank], [rank, cols]] {
            if rows == 0 || cols == 0 {
                return Err(FormatError::Empty { rows, cols });
            }
        }
        check_length("the up factor", up.len(), rows.saturating_mul(rank))?;
        check_length("the down factor", down.len(), rank.saturating_mul(cols))?;
        let (mut columns, mut down) = (transpose(up, rows, rank), down.to_vec());
        let components = columns.chunks_exact_mut(rows).zip(down.chunks_exact_mut(cols));
        let scale = |(up, down)| (format.normalize(up) * format.normalize(down)) as f32;
        let scales: Vec<f32> = components.map(scale).collect();
        if !scales.iter().all(|scale| scale.is_finite()) {
            return Err(FormatError::Overflow);
        }
        let up = transpose(&columns, rank, rows);
        let factors = match format {
            FactorFormat::E4M3 => Factors::E4M3 {
                up: up.iter().map(|&value| Format::E4M3.encode(value)).collect(),
                down: down.iter().map(|&value| Format::E4M3.encode(value)).collect(),
            },
            FactorFormat::Bf16 => Factors::Bf16 {
                up: up.iter().map(|&value| bf16::from_f32(value).to_bits()).collect(),
                down: down.iter().map(|&value| bf16::from_f32(value).to_bits()).collect(),
            },
        };
        Ok(Self { rank, rows, cols, factors, scales })
    }

    /// Checks that the parts have the lengths that the shape needs.
    ///
    /// # Errors
    ///
    /// [`FormatError::Length`].
    pub fn check(&self) -> Result<(), FormatError> {
        let (up, down) = match &self.factors {
            Factors::E4M3 { up, down } => (up.len(), down.len()),
            Factors::Bf16 { up, down } => (up.len(), down.len()),
        };
        check_length("the up factor", up, self.rows.saturating_mul(self.rank))?;
        check_length("the down factor", down, self.rank.saturating_mul(self.cols))?;
        check_length("the scales of the low-rank factors", self.scales.len(), self.rank)
    }

    /// Number format of the factors.
    pub fn format(&self) -> FactorFormat {
        match self.factors {
            Factors::E4M3 { .. } => FactorFormat::E4M3,
            Factors::Bf16 { .. } => FactorFormat::Bf16,
        }
    }

    /// The values of `U`, `[N, R]`.
    pub fn up(&self) -> Vec<f32> {
        match &self.factors {
            Factors::E4M3 { up, .. } => e4m3_values(up),
            Factors::Bf16 { up, .. } => bf16_values(up),
        }
    }

    /// The values of `V`, `[R, K]`.
    pub fn down(&self) -> Vec<f32> {
        match &self.factors {
            Factors::E4M3 { down, .. } => e4m3_values(down),
            Factors::Bf16 { down, .. } => bf16_values(down),
        }
    }

    /// The dense factors `U diag(s)`, `[N, R]`, and `V`, `[R, K]`.
    pub fn dense_factors(&self) -> [Vec<f32>; 2] {
        let mut up = self.up();
        self.scale_components(&mut up);
        [up, self.down()]
    }

    /// The matrix itself, `U diag(s) V`, `[N, K]`.
    pub fn dense(&self) -> Vec<f32> {
        let mut dense = vec![0.0; self.rows * self.cols];
        let [up, down] = self.dense_factors();
        matmul(&up, &transpose(&down, self.rank, self.cols), &mut dense, self.rows, self.rank, self.cols);
        dense
    }

    /// Adds what the matrix contributes to a layer's output: `y += ((x Vᵀ) diag(s)) Uᵀ`, for activations `x` `[T, K]` and
    /// outputs `y` `[T, N]`.
    ///
    /// # Panics
    ///
    /// If `x` or `y` is not `tokens` rows.
    pub fn add_product(&self, x: &[f32], y: &mut [f32], tokens: usize) {
        let mut inner = vec![0.0; tokens * self.rank];
        matmul(x, &self.down(), &mut inner, tokens, self.cols, self.rank);
        self.scale_components(&mut inner);
        let mut branch = vec![0.0; y.len()];
        matmul(&inner, &self.up(), &mut branch, tokens, self.rank, self.rows);
        y.iter_mut().zip(branch).for_each(|(y, branch)| *y += branch);
    }

    /// Multiplies every row of a `[.., R]` matrix by `s`.
    fn scale_components(&self, matrix: &mut [f32]) {
        for row in matrix.chunks_exact_mut(self.rank) {
            row.iter_mut().zip(&self.scales).for_each(|(value, scale)| *value *= scale);
        }
    }

    /// Bits stored: those of the factors, and 32 for the scale of a component.
    pub fn bits(&self) -> usize {
        self.rank * ((self.rows + self.cols) * self.format().bits() as usize + 32)
    }

    /// Bits stored per weight of the quantized matrix.
    pub fn bits_per_weight(&self) -> f64 {
        self.bits() as f64 / (self.rows as f64 * self.cols as f64)
    }
}

fn e4m3_values(codes: &[u8]) -> Vec<f32> {
    let codebook = Format::E4M3.codebook();
    codes.iter().map(|&code| codebook[usize::from(code)]).collect()
}

fn bf16_values(codes: &[u16]) -> Vec<f32> {
    codes.iter().map(|&code| bf16::from_bits(code).to_f32()).collect()
}
