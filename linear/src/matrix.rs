//! A matrix of codes in the order in which the kernels read it, see [`crate::tiling`].

use zqc_formats::{FactorFormat, Ladder};

use crate::codebook::{Codebook, operand};
use crate::layer::{Extra, Layer, LowRank};
use crate::line::{Place, fill, put};
use crate::tiling::{BLOCK, Coding, LINE, PANEL};

/// A line of codes, at an address that suits every load.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub [u8; LINE]);

/// What the groups of a weight have besides codes and zero points.
pub(crate) enum GroupScales {
    /// Nothing.
    One,
    /// The [`operand`] of every step of a ladder, and the steps: a panel has one word for every group, with the shift of 4 bits of output feature
    /// `2 q` in nibble `q` and that of `2 q + 1` in nibble `8 + q`.
    Ladder(Ladder, [f32; 16], Vec<u64>),
    /// Scales that the sums of groups are multiplied by, `[panel][group][16]`.
    Floats(Vec<[f32; PANEL]>),
}

/// A matrix `[K, N]`, `N` filled up to whole panels.
pub(crate) struct Matrix {
    pub coding: Coding,
    pub groups: Groups,
    pub panels: usize,
    pub lines: Vec<Line>,
    pub scales: GroupScales,
    /// `[panel][group][16]`, or empty.
    pub zero_points: Vec<[i8; PANEL]>,
    /// The values of codes of 4 bits.
    pub codebook: Codebook,
}

/// How the input features of a row are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    /// Input features.
    pub k: usize,
    /// Input features of a group but for the last.
    pub size: usize,
    /// Groups.
    pub count: usize,
    /// Blocks of a group but for the last.
    pub blocks_each: usize,
    /// Blocks.
    pub blocks: usize,
}

impl Groups {
    /// Groups of `size` of `k` input features, both at least 1.
    pub(crate) fn new(k: usize, size: usize) -> Self {
        let size = size.min(k);
        let (count, blocks_each) = (k.div_ceil(size), size.div_ceil(BLOCK));
        let last = k - (count - 1) * size;
        Self { k, size, count, blocks_each, blocks: (count - 1) * blocks_each + last.div_ceil(BLOCK) }
    }

    /// Input features of group `g`.
    pub(crate) fn len(self, g: usize) -> usize {
        self.size.min(self.k - g * self.size)
    }

    /// Whether blocks are the same as those of one group of all.
    pub(crate) fn are_plain(self) -> bool {
        self.size.is_multiple_of(BLOCK) || self.count == 1
    }
}

impl Matrix {
    /// The weight of a layer.
    pub(crate) fn weight(layer: &Layer<'_>) -> Self {
        let groups = Groups::new(layer.k, layer.group_size);
        let mut matrix =
            Self::lines(Coding::of(layer.format), groups, layer.n, |place, line| fill(layer, place, line));
        let of_panels = || (0..matrix.panels).flat_map(|panel| (0..groups.count).map(move |g| (panel, g)));
        let row = |panel: usize, lane: usize| Some(panel * PANEL + lane).filter(|&n| n < layer.n);
        let floats = || {
            let lanes = |(panel, g)| {
                std::array::from_fn(|lane| row(panel, lane).map_or(0.0, |n| layer.group_scale(g, n)))
            };
            GroupScales::Floats(of_panels().map(lanes).collect())
        };
        let scales = match layer.extra {
            Extra::Shifts(ladder, _) => {
                let word = |(panel, g)| {
                    (0..PANEL).filter_map(|lane| Some((lane, row(panel, lane)?))).fold(
                        0,
                        |word, (lane, n)| {
                            word | u64::from(layer.shift(g, n)) << (4 * (lane / 2 + 8 * (lane % 2)))
                        },
                    )
                };
                GroupScales::Ladder(
                    ladder,
                    std::array::from_fn(|step| operand(ladder, step as u8)),
                    of_panels().map(word).collect(),
                )
            }
            Extra::None | Extra::ZeroPoints(_) => floats(),
        };
        let zero_points = match layer.extra {
            Extra::ZeroPoints(_) => {
                let lanes = |(panel, g)| {
                    std::array::from_fn(|lane| row(panel, lane).map_or(0, |n| layer.zero_point(g, n)))
                };
                of_panels().map(lanes).collect()
            }
            Extra::None | Extra::Shifts(..) => Vec::new(),
        };
        if layer.format.bits() == 4 {
            let ladder = match layer.extra {
                Extra::Shifts(ladder, _) => Some(ladder),
                Extra::None | Extra::ZeroPoints(_) => None,
            };
            matrix.codebook = Codebook::new(layer.format, ladder);
        }
        (matrix.scales, matrix.zero_points) = (scales, zero_points);
        matrix
    }

    /// `V` of a branch, `[K, R]`.
    pub(crate) fn down(branch: &LowRank<'_>, k: usize) -> Self {
        Self::factor(branch, branch.down, k, branch.rank)
    }

    /// `U` of a branch, `[R, N]`.
    pub(crate) fn up(branch: &LowRank<'_>, n: usize) -> Self {
        Self::factor(branch, branch.up, branch.rank, n)
    }

    fn factor(branch: &LowRank<'_>, factor: &[u8], rows: usize, columns: usize) -> Self {
        let coding = match branch.format {
            FactorFormat::E4M3 => Coding::E4M3,
            FactorFormat::Bf16 => Coding::Bf16,
        };
        let code = |row: usize, column: usize| {
            let at = row * columns + column;
            match branch.format {
                FactorFormat::E4M3 => u16::from(factor[at]),
                FactorFormat::Bf16 => (branch.value(factor, at).to_bits() >> 16) as u16,
            }
        };
        Self::lines(coding, Groups::new(rows, rows), columns, |place, line| {
            place.each(|column, lane, k, n| put(coding, line, lane, column, code(k, n)));
        })
    }

    /// The codes alone, line by line.
    fn lines(coding: Coding, groups: Groups, n: usize, fill: impl Fn(Place, &mut [u8; LINE])) -> Self {
        let columns = coding.columns();
        let panels = n.div_ceil(PANEL);
        let mut lines = Vec::new();
        lines.reserve_exact(panels * lines_before(coding, groups, groups.count));
        for n in (0..n).step_by(PANEL).map(|first| first..n.min(first + PANEL)) {
            for g in 0..groups.count {
                let end = g * groups.size + groups.len(g);
                for k in (g * groups.size..end).step_by(columns) {
                    let mut line = Line([0; LINE]);
                    fill(Place { k: k..end.min(k + columns), n: n.clone() }, &mut line.0);
                    lines.push(line);
                }
            }
        }
        let (scales, zero_points) = (GroupScales::One, Vec::new());
        Self { coding, groups, panels, lines, scales, zero_points, codebook: Codebook::NONE }
    }

    /// Lines of a panel.
    pub(crate) fn lines_of_panel(&self) -> usize {
        lines_before(self.coding, self.groups, self.groups.count)
    }

    /// The largest magnitude of a weight over the lowest bit of all weights that are multiplied by the same factor; infinite where
    /// that is too much for sums to be exact, or weights have no such bit.
    pub(crate) fn span(&self) -> f32 {
        let largest_zero_point = if self.zero_points.is_empty() { 0.0 } else { 128.0 };
        match &self.coding {
            Coding::Nibbles => {
                let largest = self.codebook.values.iter().map(|value| value.abs()).fold(0.0, f32::max);
                let factor = match &self.scales {
                    GroupScales::Ladder(ladder, ..) => {
                        let octave = (0..ladder.steps_per_octave()).map(|step| ladder.factor(step));
                        octave.map(odd_part).fold(1.0, f32::max)
                    }
                    GroupScales::One | GroupScales::Floats(_) => 1.0,
                };
                factor * (largest + largest_zero_point) / self.codebook.unit
            }
            Coding::Int8 => 128.0 + largest_zero_point,
            Coding::E4M3 | Coding::E5M2 | Coding::Bf16 => f32::INFINITY,
        }
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let scales = match &self.scales {
            GroupScales::One => 0,
            GroupScales::Ladder(_, _, words) => size_of_val(words.as_slice()),
            GroupScales::Floats(scales) => size_of_val(scales.as_slice()),
        };
        size_of_val(self.lines.as_slice()) + scales + size_of_val(self.zero_points.as_slice())
    }
}

/// The odd integer that `factor` is a power of two times of: how much larger it is than its lowest bit.
fn odd_part(factor: f32) -> f32 {
    let significand = factor.to_bits() & 0x007F_FFFF | 1 << 23;
    (significand >> significand.trailing_zeros()) as f32
}

/// Lines of a panel before group `g`.
fn lines_before(coding: Coding, groups: Groups, g: usize) -> usize {
    let columns = coding.columns();
    let whole = groups.size.div_ceil(columns);
    if g < groups.count { g * whole } else { (g - 1) * whole + groups.len(g - 1).div_ceil(columns) }
}
