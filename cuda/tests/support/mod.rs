//! Random layers, packed, and what they compute, in f64.
#![allow(dead_code)] // each test binary uses a part

use std::path::Path;

use zqc_cuda::{Package, Prologue};
use zqc_formats::{Factors, Format, Ladder, LowRank, QuantizedMatrix, Scales};
use zqc_kernels::{LayerParts, PackageWriter};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// From 0 to 1.
    pub fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// Nearly normal: the sum of 12 uniform numbers.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

/// A layer to make up.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub n: usize,
    pub k: usize,
    /// 0 for the whole row.
    pub group_size: usize,
    pub rank: usize,
    pub bias: bool,
    pub format: Format,
    pub ladder: Ladder,
}

impl Spec {
    pub const fn new(n: usize, k: usize, group_size: usize, rank: usize) -> Self {
        Self { n, k, group_size, rank, bias: false, format: Format::E2M1, ladder: Ladder::M2 }
    }

    pub const fn bias(self) -> Self {
        Self { bias: true, ..self }
    }

    pub const fn m3(self) -> Self {
        Self { ladder: Ladder::M3, ..self }
    }

    pub const fn lut4(self) -> Self {
        Self { format: Format::Lut4, ladder: Ladder::M8, ..self }
    }

    pub const fn e3m0(self) -> Self {
        Self { format: Format::E3M0, ..self }
    }

    /// All codes and all steps at random; every 37th row is zero.
    pub fn layer(self, name: &str, random: &mut Random) -> LayerParts {
        let Self { n, k, rank, format, ladder, .. } = self;
        let group_size = if self.group_size == 0 { k } else { self.group_size };
        let groups = k.div_ceil(group_size);
        let is_zero = |row: usize| row % 37 == 36;
        let steps = u64::from(ladder.max_shift(format).unwrap()) + 1;
        let codes = (0..n * k).map(|at| if is_zero(at / k) { 0 } else { random.below(16) as u8 }).collect();
        let scales = if groups == 1 {
            Scales::Grouped((0..n).map(|_| 0.01 + 0.03 * random.uniform()).collect())
        } else {
            let rows = (0..n).map(|_| 0.01 + 0.03 * random.uniform()).collect();
            let shifts = (0..n * groups).map(|_| random.below(steps) as u8).collect();
            Scales::Shifted { ladder, rows, shifts }
        };
        let matrix =
            QuantizedMatrix { format, rows: n, cols: k, group_size, codes, scales, zero_points: None };
        let mut e4m3 =
            |count: usize| -> Vec<u8> { (0..count).map(|_| Format::E4M3.encode(random.normal())).collect() };
        let low_rank = (rank > 0).then(|| LowRank {
            rank,
            rows: n,
            cols: k,
            factors: Factors::E4M3 { up: e4m3(n * rank), down: e4m3(rank * k) },
            scales: (0..rank).map(|r| 0.005 / (1 + r) as f32).collect(),
        });
        let bias = self.bias.then(|| (0..n).map(|_| random.normal()).collect());
        LayerParts { name: name.into(), matrix, low_rank, bias }
    }
}

/// A package of these groups of layers, each of which shares its input.
pub fn package(folder: &Path, groups: &[Vec<LayerParts>]) -> Package {
    let folder = folder.join("model.zqcuda");
    let mut writer = PackageWriter::new(&folder).unwrap();
    for group in groups {
        writer.add(group).unwrap();
    }
    writer.finish().unwrap();
    Package::open(&folder).unwrap()
}

/// The rows that are quantized, after the prologue.
pub fn prologue(prologue: Prologue, x: &[f64], second: &[f64], k: usize, epsilon: f32) -> Vec<f64> {
    let rows = x.chunks_exact(k).enumerate();
    rows.flat_map(|(row, x)| {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / k as f64;
        let root = (mean + f64::from(epsilon)).sqrt();
        (0..k).map(move |column| match prologue {
            Prologue::None => x[column],
            Prologue::RmsNorm => x[column] / root * second[column],
            Prologue::SiluMul => x[column] / (1.0 + (-x[column]).exp()) * second[row * k + column],
        })
    })
    .collect()
}

/// The rows as the kernels see them: E4M3 codes, decoded, times a scale for each row.
pub fn quantized(x: &[f64], k: usize) -> Vec<f64> {
    let rows = x.chunks_exact(k);
    rows.flat_map(|x| {
        let largest = x.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
        // In f32, as the portable model divides: a code between two values must fall on the same side.
        let scale = (largest as f32 / 448.0).max(1e-12);
        x.iter().map(move |x| f64::from(Format::E4M3.round(*x as f32 / scale)) * f64::from(scale))
    })
    .collect()
}

/// `x W^T + bias`, with the low-rank branch in `W`.
pub fn multiply(layer: &LayerParts, x: &[f64]) -> Vec<f64> {
    let (n, k) = (layer.matrix.rows, layer.matrix.cols);
    let mut weight: Vec<f64> = layer.matrix.dequantize().into_iter().map(f64::from).collect();
    if let Some(branch) = &layer.low_rank {
        let (up, down) = (branch.up(), branch.down());
        for (row, weight) in weight.chunks_exact_mut(k).enumerate() {
            for rank in 0..branch.rank {
                let factor = f64::from(up[row * branch.rank + rank]) * f64::from(branch.scales[rank]);
                for (weight, down) in weight.iter_mut().zip(&down[rank * k..]) {
                    *weight += factor * f64::from(*down);
                }
            }
        }
    }
    let mut y = Vec::with_capacity(x.len() / k * n);
    for x in x.chunks_exact(k) {
        for (row, weight) in weight.chunks_exact(k).enumerate() {
            let bias = layer.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]));
            y.push(weight.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias);
        }
    }
    y
}

/// The root of the mean over the tokens of the squared relative error of each; a token that should be zero must be.
pub fn relative_error(y: &[f64], expected: &[f64], n: usize) -> f64 {
    let tokens = y.chunks_exact(n).zip(expected.chunks_exact(n));
    let squares = tokens.map(|(y, expected)| {
        let norm = expected.iter().map(|e| e * e).sum::<f64>();
        let error = y.iter().zip(expected).map(|(y, e)| (y - e) * (y - e)).sum::<f64>();
        if error == 0.0 { 0.0 } else { error / norm }
    });
    (squares.sum::<f64>() / (expected.len() / n).max(1) as f64).sqrt()
}
