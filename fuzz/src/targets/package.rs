//! The CUDA package: whatever its manifest says of the arrays.

use std::path::Path;

use serde_json::Value;
use zqc::formats::{Factors, Format, Ladder, LowRank, QuantizedMatrix, Scales};
use zqc::kernels::{LayerParts, Manifest, Package, PackageWriter};

use super::{Outcome, Target};
use crate::mutate::change_json;

pub const TARGET: Target = Target {
    name: "package",
    corpus: "package",
    file: "model.zqcuda/manifest.json",
    memory: 8 << 20,
    read: read_package,
    mutate: |random, bytes, other| change_json(random, bytes, other, WORDS),
};

const WORDS: &[&[u8]] = &[
    b"version",
    b"weights.bin",
    b"offset",
    b"bytes",
    b"crc32",
    b"rank_offset",
    b"steps_per_block",
    b"layers",
    b"activations",
    b"m3",
    b"row",
    b"ffffffffffffffff",
    b"2147483648",
    b"18446744073709551615",
    b"-1",
    b"0.5",
];

/// Writes the package that the manifests of the corpus describe, once; what is at the manifest's place is kept.
fn surroundings(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let (package, other) = (folder.join("model.zqcuda"), folder.join("written.zqcuda"));
    if package.join("weights.bin").exists() {
        return Ok(());
    }
    let mut writer = PackageWriter::new(&other)?;
    writer.add(&[layer("first", 8), layer("second", 0)])?;
    writer.finish()?;
    std::fs::rename(other.join("weights.bin"), package.join("weights.bin"))?;
    Ok(())
}

/// A layer of 8 x 72 with codes and steps that repeat.
fn layer(name: &str, rank: usize) -> LayerParts {
    let (rows, cols, group_size) = (8, 72, 64);
    let matrix = QuantizedMatrix {
        format: Format::E2M1,
        rows,
        cols,
        group_size,
        codes: (0..rows * cols).map(|at| at as u8 % 16).collect(),
        scales: Scales::Shifted { ladder: Ladder::M3, rows: vec![0.5; rows], shifts: (0..16).collect() },
        zero_points: None,
    };
    let factor = |count: usize| (0..count).map(|at| at as u8 % 120).collect();
    let low_rank = (rank > 0).then(|| LowRank {
        rank,
        rows,
        cols,
        factors: Factors::E4M3 { up: factor(rows * rank), down: factor(rank * cols) },
        scales: vec![1.0; rank],
    });
    LayerParts { name: name.to_string(), matrix, low_rank, bias: Some(vec![1.0; rows]) }
}

/// The manifest with the checksum that it should have, so that the checks behind it are reached.
fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut manifest: Value = serde_json::from_slice(bytes).ok()?;
    let typed: Manifest = serde_json::from_value(manifest.clone()).ok()?;
    manifest["checksum"] = typed.compute_checksum().ok()?.into();
    Some(manifest.to_string().into_bytes())
}

fn read_package(folder: &Path) -> Result<Outcome, String> {
    surroundings(folder).map_err(|error| error.to_string())?;
    let path = folder.join(TARGET.file);
    let bytes = std::fs::read(&path).map_err(|error| error.to_string())?;
    if let Some(sealed) = sealed(&bytes) {
        std::fs::write(&path, sealed).map_err(|error| error.to_string())?;
    }
    let package = match Package::open(&folder.join("model.zqcuda")) {
        Ok(package) => package,
        Err(error) => return Ok(Outcome::Refused(error.to_string())),
    };
    let layers = package.layers().map(|layer| layer.manifest.name.clone()).collect::<Vec<_>>();
    for name in &layers {
        package.unpack(name).ok_or(format!("layer {name:?} is listed and not found"))?;
    }
    Ok(Outcome::Read(layers.len().to_string()))
}
