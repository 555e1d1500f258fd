//! A layer, its operands as the file has them.

use half::bf16;
use zqc_formats::{FactorFormat, Format, Ladder};

use crate::error::PackError;
use crate::tiling::Coding;

/// How the operands of a weight lie. `G` is the number of groups, `ceil(K / group_size)`; 4-bit codes and shifts lie two a
/// byte along the last axis, the first in the low nibble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Codes `[K, N]`, scales and zero points `[G, N]`, shifts `[G, N]`: a `MatMul`.
    InputMajor,
    /// Codes `[N, K]`, scales and zero points `[N, G]`, shifts `[N, G]`: a head that shares the table of the embedding.
    OutputMajor,
}

/// What the groups of a weight have besides a scale.
#[derive(Clone, Copy, Debug)]
pub enum Extra<'a> {
    /// Nothing: a scale for every group.
    None,
    /// Steps of a ladder below the scale of the row; there is one scale a row, `[1, N]` or `[N, 1]`.
    Shifts(Ladder, &'a [u8]),
    /// Zero points.
    ZeroPoints(&'a [i8]),
}

/// A low-rank branch `x V diag(s) U`.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// `R`.
    pub rank: usize,
    /// Format of both factors.
    pub format: FactorFormat,
    /// `V`, `[K, R]`: bytes, or little-endian pairs of them for bfloat16.
    pub down: &'a [u8],
    /// `U`, `[R, N]`, as `V`.
    pub up: &'a [u8],
    /// `s`, `[R]`.
    pub scales: &'a [f32],
}

/// A quantized linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// Input features.
    pub k: usize,
    /// Output features.
    pub n: usize,
    /// Weights along `k` that share a scale; the last group of a row may be shorter.
    pub group_size: usize,
    /// How codes, scales and extra lie.
    pub layout: Layout,
    /// Format of the codes.
    pub format: Format,
    /// The codes.
    pub codes: &'a [u8],
    /// The scales.
    pub scales: &'a [f32],
    /// What the groups have besides a scale.
    pub extra: Extra<'a>,
    /// The low-rank branch.
    pub low_rank: Option<LowRank<'a>>,
    /// The bias, `[N]`.
    pub bias: Option<&'a [f32]>,
}

impl Layer<'_> {
    /// Number of groups of a row.
    pub fn groups(&self) -> usize {
        self.k.div_ceil(self.group_size)
    }

    /// Checks that the operands fit the shape, the extra fits the format, and weights and factors are finite.
    ///
    /// # Errors
    /// [`PackError`], of the first thing that is wrong.
    pub fn check(&self) -> Result<(), PackError> {
        let &Self { k, n, group_size, format, .. } = self;
        if k == 0 || n == 0 || group_size == 0 {
            return Err(PackError::Empty { k, n, group_size });
        }
        // Every product of dimensions that is formed later is at most this one.
        let ranks = self.low_rank.map_or(1, |branch| branch.rank.max(1));
        let largest = k
            .saturating_add(32)
            .checked_mul(n.saturating_add(16))
            .and_then(|size| size.checked_mul(8)?.checked_mul(ranks));
        if largest.is_none_or(|size| size > isize::MAX as usize) {
            return Err(PackError::TooLarge { k, n });
        }
        let groups = self.groups();
        let nibbles = |rows: usize| match self.layout {
            Layout::InputMajor => rows * n.div_ceil(2),
            Layout::OutputMajor => n * rows.div_ceil(2),
        };
        let length = |what, actual: usize, expected: usize| {
            if actual == expected { Ok(()) } else { Err(PackError::Length { what, expected, actual }) }
        };
        let codes = if format.bits() == 4 { nibbles(k) } else { k * n };
        length("codes of the weight", self.codes.len(), codes)?;
        match self.extra {
            Extra::None => length("scales of the weight", self.scales.len(), groups * n)?,
            Extra::Shifts(ladder, shifts) => {
                if ladder.max_shift(format).is_none() {
                    return Err(PackError::Shifts { format, ladder });
                }
                length("scales of the weight", self.scales.len(), n)?;
                length("shifts of the weight", shifts.len(), nibbles(groups))?;
            }
            Extra::ZeroPoints(zero_points) => {
                if !format.is_integer() {
                    return Err(PackError::ZeroPoints(format));
                }
                length("scales of the weight", self.scales.len(), groups * n)?;
                length("zero points of the weight", zero_points.len(), groups * n)?;
            }
        }
        if let Some(bias) = self.bias {
            length("bias", bias.len(), n)?;
        }
        if let Some(branch) = self.low_rank {
            let bytes = branch.format.bits() as usize / 8;
            length("factor V", branch.down.len(), k * branch.rank * bytes)?;
            length("factor U", branch.up.len(), branch.rank * n * bytes)?;
            length("scales of the low-rank branch", branch.scales.len(), branch.rank)?;
        }
        self.check_finite()
    }

    fn check_finite(&self) -> Result<(), PackError> {
        let not_finite =
            |what, at: Option<usize>| at.map_or(Ok(()), |at| Err(PackError::NotFinite { what, at }));
        // The first of what is not finite is looked for only where there is some: the search for any is fast.
        let first = |codes: &[u8], bad: fn(u8) -> bool| {
            let any = codes.chunks(4096).any(|codes| codes.iter().fold(false, |any, &code| any | bad(code)));
            any.then(|| codes.iter().position(|&code| bad(code))).flatten()
        };
        let bad_code: Option<fn(u8) -> bool> = match Coding::of(self.format) {
            Coding::E4M3 => Some(|code| code & 0x7F == 0x7F),
            Coding::E5M2 => Some(|code| code & 0x7C == 0x7C),
            Coding::Nibbles | Coding::Int8 | Coding::Bf16 => None,
        };
        not_finite("codes of the weight", bad_code.and_then(|bad| first(self.codes, bad)))?;
        let Some(branch) = self.low_rank else { return Ok(()) };
        let bad = |factor: &[u8]| match branch.format {
            FactorFormat::E4M3 => first(factor, |code| code & 0x7F == 0x7F),
            FactorFormat::Bf16 => {
                factor.as_chunks().0.iter().position(|&pair| !bf16::from_le_bytes(pair).is_finite())
            }
        };
        not_finite("factor V", bad(branch.down))?;
        not_finite("factor U", bad(branch.up))
    }

    /// The code of weight `[k, n]`.
    pub(crate) fn code(&self, k: usize, n: usize) -> u8 {
        match self.format.bits() {
            4 => self.nibble(self.codes, self.k, k, n),
            _ => self.codes[self.at(self.k, k, n)],
        }
    }

    /// The scale of group `g` and row `n` of a weight without shifts.
    pub(crate) fn group_scale(&self, g: usize, n: usize) -> f32 {
        self.scales[self.at(self.groups(), g, n)]
    }

    /// The shift of group `g` and row `n`, 0 where there is none.
    pub(crate) fn shift(&self, g: usize, n: usize) -> u8 {
        match self.extra {
            Extra::Shifts(_, shifts) => self.nibble(shifts, self.groups(), g, n),
            Extra::None | Extra::ZeroPoints(_) => 0,
        }
    }

    /// The scale of row `n`, 1 where only groups have one.
    pub(crate) fn row_scale(&self, n: usize) -> f32 {
        match self.extra {
            Extra::Shifts(..) => self.scales[n],
            Extra::None | Extra::ZeroPoints(_) => 1.0,
        }
    }

    /// The zero point of group `g` and row `n`, 0 where there is none.
    pub(crate) fn zero_point(&self, g: usize, n: usize) -> i8 {
        match self.extra {
            Extra::ZeroPoints(zero_points) => zero_points[self.at(self.groups(), g, n)],
            Extra::None | Extra::Shifts(..) => 0,
        }
    }

    /// The index of element `[row, n]` of a matrix with `rows` rows of `N`, in the layout of the file.
    fn at(&self, rows: usize, row: usize, n: usize) -> usize {
        match self.layout {
            Layout::InputMajor => row * self.n + n,
            Layout::OutputMajor => n * rows + row,
        }
    }

    /// As [`Layer::at`], of elements of 4 bits.
    fn nibble(&self, packed: &[u8], rows: usize, row: usize, n: usize) -> u8 {
        let (byte, column) = match self.layout {
            Layout::InputMajor => (row * self.n.div_ceil(2) + n / 2, n),
            Layout::OutputMajor => (n * rows.div_ceil(2) + row / 2, row),
        };
        packed[byte] >> (4 * (column % 2)) & 0xF
    }
}

impl LowRank<'_> {
    /// Element `at` of a factor.
    pub(crate) fn value(&self, factor: &[u8], at: usize) -> f32 {
        let value = match self.format {
            FactorFormat::E4M3 => Format::E4M3.decode(factor[at]),
            FactorFormat::Bf16 => bf16::from_le_bytes([factor[2 * at], factor[2 * at + 1]]).to_f32(),
        };
        flush_to_zero(value)
    }
}

/// The value of an element of bfloat16, or 0 for one below 2^-100: a product of it with the least value of a code could be subnormal.
#[inline(always)]
pub(crate) fn flush_to_zero(value: f32) -> f32 {
    const LEAST: f32 = f32::from_bits((127 - 100) << 23);
    if value.abs() < LEAST { 0.0 } else { value }
}
