//! Layers of pseudo-random content.

use std::path::Path;

use zqc_formats::{Factors, Format, Ladder, LowRank, QuantizedMatrix, Scales};
use zqc_kernels::{LayerParts, Package, PackageWriter};

/// What a layer is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub n: usize,
    pub k: usize,
    pub format: Format,
    /// `None` for one scale a row.
    pub ladder: Option<Ladder>,
    /// 0 for the whole row.
    pub group_size: usize,
    pub rank: usize,
    pub bias: bool,
}

/// A linear layer of E2M1 in groups of 64 under M3.
pub const PLAIN: Shape = Shape {
    n: 200,
    k: 300,
    format: Format::E2M1,
    ladder: Some(Ladder::M3),
    group_size: 64,
    rank: 0,
    bias: false,
};

/// Numbers that follow no short pattern.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    fn bytes(&mut self, count: usize, end: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(end) as u8).collect()
    }

    /// From 0.5 to 2.
    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| 0.5 + 1.5 * (self.below(1 << 20) as f32 / (1 << 20) as f32)).collect()
    }

    /// E4M3 codes without NaN.
    fn e4m3(&mut self, count: usize) -> Vec<u8> {
        self.bytes(count, 254).into_iter().map(|code| if code >= 127 { code + 1 } else { code }).collect()
    }
}

/// A layer of this shape.
pub fn layer(name: &str, shape: Shape, random: &mut Random) -> LayerParts {
    let Shape { n, k, format, ladder, group_size, rank, bias } = shape;
    let group_size = if group_size == 0 { k } else { group_size.min(k) };
    let scales = match ladder {
        None => Scales::Grouped(random.floats(n * k.div_ceil(group_size))),
        Some(ladder) => Scales::Shifted {
            ladder,
            rows: random.floats(n),
            shifts: random.bytes(
                n * k.div_ceil(group_size),
                usize::from(ladder.max_shift(format).expect("a ladder of the format")) + 1,
            ),
        },
    };
    let codes = random.bytes(n * k, 16);
    let matrix = QuantizedMatrix { format, rows: n, cols: k, group_size, codes, scales, zero_points: None };
    let low_rank = (rank > 0).then(|| LowRank {
        rank,
        rows: n,
        cols: k,
        factors: Factors::E4M3 { up: random.e4m3(n * rank), down: random.e4m3(rank * k) },
        scales: random.floats(rank),
    });
    LayerParts { name: name.to_string(), matrix, low_rank, bias: bias.then(|| random.floats(n)) }
}

/// Writes a package of layers, those of each list reading one activation.
pub fn write(folder: &Path, activations: &[Vec<LayerParts>]) {
    let mut writer = PackageWriter::new(folder).unwrap();
    activations.iter().for_each(|layers| writer.add(layers).unwrap());
    writer.finish().unwrap();
}

/// The package of these layers, its files gone but for what is mapped.
pub fn package(activations: &[Vec<LayerParts>]) -> Package {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("package");
    write(&path, activations);
    Package::open(&path).unwrap()
}
