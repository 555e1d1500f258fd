//! What a manifest must say so that a package can be used.

use std::collections::HashSet;

use zqc_formats::Format;

use crate::geometry::{Geometry, GeometryError, RANK_MULTIPLE, down_bytes};
use crate::manifest::{ALIGNMENT, Activation, Array, GroupScales, Layer, Manifest};
use crate::table::Table;

/// What is wrong with a package.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
#[non_exhaustive]
pub enum Damage {
    /// The manifest was changed after it was written.
    #[error("the manifest does not have its checksum")]
    Manifest,
    /// `weights.bin` is shorter or longer than the manifest says.
    #[error("it has {actual} bytes, and the manifest says {expected}")]
    FileSize { expected: usize, actual: usize },
    /// An array was changed after it was written.
    #[error("{what} does not have its checksum")]
    Checksum { what: String },
    /// Two layers have one name.
    #[error("{name:?} is there twice")]
    Twice { name: String },
    /// No layer can have such a shape.
    #[error("layer {layer}: {source}")]
    Geometry { layer: String, source: GeometryError },
    /// The scales, steps or table are none that the format of the codes has.
    #[error("layer {layer}: its {what} are not those of {codes} codes in groups of {group_size}")]
    Scales { layer: String, what: &'static str, codes: Format, group_size: usize },
    /// The layer reads no activation, or one of another width.
    #[error("layer {layer}: no activation {index} of {k} features is there")]
    NoActivation { layer: String, index: usize, k: usize },
    /// An activation that no layer reads.
    #[error("activation {index} is read by no layer")]
    Unread { index: usize },
    /// The ranks of an activation are not those of its layers, one after the other.
    #[error("activation {index}: its layers do not share out its ranks")]
    Ranks { index: usize },
    /// An array has a size that the shape does not need.
    #[error("{what} has {actual} bytes, its shape needs {expected}")]
    ArraySize { what: String, expected: usize, actual: usize },
    /// An array begins where none can begin.
    #[error("{what} begins at {offset}, which is no multiple of 256")]
    Unaligned { what: String, offset: usize },
    /// An array reaches past the end.
    #[error("{what} reaches past the end of weights.bin")]
    OutOfRange { what: String },
    /// Two arrays share bytes.
    #[error("{first} and {second} overlap")]
    Overlap { first: String, second: String },
    /// More bytes than alignment needs belong to no array.
    #[error("nothing is said of the bytes from {from} to {to}")]
    Gap { from: usize, to: usize },
    /// Bytes that belong to no array are not zero.
    #[error("the padding behind {what} is not zero")]
    Padding { what: String },
}

/// An array by what messages call it.
pub(crate) struct NamedArray {
    pub what: String,
    pub array: Array,
}

/// Checks all but the files: then every array lies in `weights_bytes`, has the size that shapes need, and every index is in
/// range. Returns the arrays by offset, and the geometries of the layers.
///
/// # Errors
/// The first damage found.
pub(crate) fn validate(manifest: &Manifest) -> Result<(Vec<NamedArray>, Vec<Geometry>), Damage> {
    distinct(manifest.layers.iter().map(|layer| layer.name.as_str()))?;
    let mut arrays = Vec::new();
    let mut geometries = Vec::new();
    for layer in &manifest.layers {
        let geometry = check_layer(layer, &manifest.activations)?;
        geometries.push(geometry);
        for (part, array) in layer.arrays() {
            let what = format!("layer {}, {part}", layer.name);
            let expected = if part == "weights" { geometry.weights_bytes() } else { geometry.row_bytes() };
            check_size(&what, array, expected)?;
            arrays.push(NamedArray { what, array });
        }
    }
    let mut readers = vec![Vec::new(); manifest.activations.len()];
    manifest.layers.iter().for_each(|layer| readers[layer.activation].push((layer.rank_offset, layer.rank)));
    for (index, (activation, readers)) in manifest.activations.iter().zip(readers).enumerate() {
        check_ranks(index, activation, readers)?;
        if let Some(array) = activation.down {
            let what = format!("activation {index}, down");
            check_size(&what, array, down_bytes(activation.k, activation.rank).unwrap_or(usize::MAX))?;
            arrays.push(NamedArray { what, array });
        }
    }
    arrays.sort_by_key(|named| named.array.offset);
    check_places(&arrays, manifest.weights_bytes)?;
    Ok((arrays, geometries))
}

fn distinct<'n>(names: impl Iterator<Item = &'n str>) -> Result<(), Damage> {
    let mut seen = HashSet::new();
    let mut names = names;
    match names.find(|name| !seen.insert(*name)) {
        Some(name) => Err(Damage::Twice { name: name.to_string() }),
        None => Ok(()),
    }
}

fn check_layer(layer: &Layer, activations: &[Activation]) -> Result<Geometry, Damage> {
    let geometry =
        layer.geometry().map_err(|source| Damage::Geometry { layer: layer.name.clone(), source })?;
    let wrong = |what| Damage::Scales {
        layer: layer.name.clone(),
        what,
        codes: layer.codes.format(),
        group_size: layer.group_size,
    };
    if layer.scales == GroupScales::Row && layer.group_size != layer.k {
        return Err(wrong("scales"));
    }
    if layer.group_size > layer.k || layer.steps_per_block != geometry.steps_per_block() {
        return Err(wrong("steps"));
    }
    let format = layer.codes.format();
    let table = layer.scales.ladder(format).and_then(|ladder| Table::new(format, ladder));
    if table != Some(layer.table) {
        return Err(wrong("table entries"));
    }
    match activations.get(layer.activation) {
        Some(activation) if activation.k == layer.k => Ok(geometry),
        _ => Err(Damage::NoActivation { layer: layer.name.clone(), index: layer.activation, k: layer.k }),
    }
}

/// The ranks of the layers that read an activation, by first rank and number, follow each other from 0 to its own.
fn check_ranks(
    index: usize,
    activation: &Activation,
    mut readers: Vec<(usize, usize)>,
) -> Result<(), Damage> {
    if readers.is_empty() {
        return Err(Damage::Unread { index });
    }
    readers.sort_unstable();
    let (without, with): (Vec<_>, Vec<_>) = readers.into_iter().partition(|&(_, rank)| rank == 0);
    let end = with.into_iter().try_fold(0usize, |end, (first, rank)| {
        let next = end.checked_add(rank.checked_next_multiple_of(RANK_MULTIPLE)?)?;
        (first == end).then_some(next)
    });
    let placed = end == Some(activation.rank) && without.iter().all(|&(first, _)| first == 0);
    if !placed || activation.down.is_some() != (activation.rank > 0) {
        return Err(Damage::Ranks { index });
    }
    Ok(())
}

fn check_size(what: &str, array: Array, expected: usize) -> Result<(), Damage> {
    if array.bytes == expected {
        return Ok(());
    }
    Err(Damage::ArraySize { what: what.to_string(), expected, actual: array.bytes })
}

/// Arrays, by offset, lie one behind the other in a file of `size` bytes, with no more between them than alignment needs.
fn check_places(arrays: &[NamedArray], size: usize) -> Result<(), Damage> {
    for NamedArray { what, array } in arrays {
        if !array.offset.is_multiple_of(ALIGNMENT) {
            return Err(Damage::Unaligned { what: what.clone(), offset: array.offset });
        }
        if array.offset.checked_add(array.bytes).is_none_or(|end| end > size) {
            return Err(Damage::OutOfRange { what: what.clone() });
        }
    }
    let end = |named: &NamedArray| named.array.offset + named.array.bytes;
    for pair in arrays.windows(2) {
        if pair[1].array.offset < end(&pair[0]) {
            return Err(Damage::Overlap { first: pair[0].what.clone(), second: pair[1].what.clone() });
        }
        check_gap(end(&pair[0]), pair[1].array.offset)?;
    }
    check_gap(0, arrays.first().map_or(size, |first| first.array.offset))?;
    arrays.last().map_or(Ok(()), |last| check_gap(end(last), size))
}

fn check_gap(from: usize, to: usize) -> Result<(), Damage> {
    if to - from < ALIGNMENT { Ok(()) } else { Err(Damage::Gap { from, to }) }
}
