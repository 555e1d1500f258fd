//! CUDA packages.

use std::path::Path;

use zqc_formats::ActivationFormat;
use zqc_kernels::{BLOCK, GroupScales, Package, PackedLayer};

use super::{InspectedFile, Inspection, Layers, LinearSummary};
use crate::error::Error;

/// Lists the layers of the package in a folder.
///
/// # Errors
/// When it is damaged, or no package.
pub(super) fn inspect(folder: &Path) -> Result<Inspection, Error> {
    let package = Package::open(folder)?;
    let manifest = package.manifest();
    let file = InspectedFile::Package {
        package_version: manifest.version,
        zqc_version: manifest.zqc_version.clone(),
        activations: manifest.activations.len(),
    };
    let layers = Layers { linears: package.layers().map(summary).collect(), kept: Vec::new() };
    Ok(Inspection::new(folder, file, layers, manifest.weights_bytes as u64))
}

fn summary(layer: PackedLayer<'_>) -> LinearSummary {
    let (manifest, geometry) = (layer.manifest, layer.geometry);
    let down = geometry.rank16() * geometry.blocks() * BLOCK;
    let bytes = layer.weights.len() + layer.row_scales.len() + down;
    LinearSummary {
        layer: manifest.name.clone(),
        k: manifest.k,
        n: manifest.n,
        format: manifest.codes.format().to_string(),
        group_size: Some(manifest.group_size),
        scales: Some(match manifest.scales {
            GroupScales::Row => "grouped".to_string(),
            scales => {
                scales.ladder(manifest.codes.format()).map_or(String::new(), |ladder| ladder.to_string())
            }
        }),
        zero_points: false,
        rank: manifest.rank,
        activations: Some(ActivationFormat::E4M3.to_string()),
        bits_per_weight: 8.0 * bytes as f64 / (manifest.n as f64 * manifest.k as f64),
        bias: manifest.bias.is_some(),
    }
}
