//! `.npz`: NumPy arrays by name in a zip archive.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;
use zqc_ir::onnx::proto::tensor_proto::DataType;

use super::{DataError, Sample};
use crate::array::Array;
use crate::inputs::InputSpec;

/// A header longer than this is no array's; NumPy's own take less than 200 bytes.
const MAX_HEADER: usize = 1 << 16;

/// Up to this size an array may unpack from next to nothing, and beyond it at most in this ratio: a mask of ones is a
/// thousandth of its size, a file of such ratios made to fill the memory.
const MOST_UNPACKED: u64 = 64 << 20;
const MOST_RATIO: u64 = 200;

/// Reads the arrays that are named like inputs.
pub fn read(path: &Path, specs: &[InputSpec]) -> Result<Sample, DataError> {
    let file = File::open(path).map_err(|source| DataError::Read { path: path.into(), source })?;
    let malformed = |reason: String| DataError::Malformed { path: path.into(), reason };
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| malformed(e.to_string()))?;
    let mut arrays = Sample::new();
    for InputSpec { name, .. } in specs {
        let in_array = |reason: String| malformed(format!("array {name:?}: {reason}"));
        let mut reader = match archive.by_name(&format!("{name}.npy")) {
            Ok(reader) => reader,
            Err(ZipError::FileNotFound) => continue,
            Err(error) => return Err(in_array(error.to_string())),
        };
        let most = MOST_UNPACKED.saturating_add(reader.compressed_size().saturating_mul(MOST_RATIO));
        let mut bytes = Vec::new();
        let read = reader.by_ref().take(most.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|e| in_array(e.to_string()))?;
        if bytes.len() as u64 > most {
            let packed = reader.compressed_size();
            return Err(in_array(format!(
                "{packed} bytes unpack to more than {most}; save it with numpy.savez"
            )));
        }
        let (data_type, shape, data) = parse_npy(&bytes).map_err(in_array)?;
        let array = Array::from_le_bytes(data_type, shape, data).map_err(|source| DataError::Array {
            path: path.into(),
            name: name.clone(),
            source,
        })?;
        arrays.insert(name.clone(), array);
    }
    Ok(arrays)
}

/// Element type, shape and data of an `.npy` file: magic, version, length of the header, the header as a Python
/// dictionary, the elements.
fn parse_npy(bytes: &[u8]) -> Result<(DataType, Vec<usize>, &[u8]), String> {
    const CUT_SHORT: &str = "the file is cut short";
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("not a NumPy array")?;
    let (&[major, _minor], rest) = rest.split_first_chunk().ok_or(CUT_SHORT)?;
    let (length, rest) = match major {
        1 => rest.split_first_chunk().map(|(b, rest)| (u16::from_le_bytes(*b).into(), rest)),
        2 | 3 => rest.split_first_chunk().map(|(b, rest)| (u32::from_le_bytes(*b) as usize, rest)),
        _ => return Err(format!("version {major} of the format is unknown")),
    }
    .ok_or(CUT_SHORT)?;
    let (header, data) = rest.split_at_checked(length).ok_or(CUT_SHORT)?;
    let header = std::str::from_utf8(header).ok().filter(|header| header.len() <= MAX_HEADER);
    let (data_type, shape) = header.and_then(parse_header).ok_or("its header is not that of an array")??;
    Ok((data_type, shape, data))
}

/// Element type and shape from `{'descr': '<i8', 'fortran_order': False, 'shape': (3, 4), }`; `None` when the header is
/// not of this form.
fn parse_header(header: &str) -> Option<Result<(DataType, Vec<usize>), String>> {
    let field = |key: &str| Some(header.split_once(&format!("'{key}':"))?.1.trim_start());
    let (descr, _) = field("descr")?.strip_prefix('\'')?.split_once('\'')?;
    let (shape, _) = field("shape")?.strip_prefix('(')?.split_once(')')?;
    let extents = shape.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    let shape: Vec<usize> = extents.map(|extent| extent.parse().ok()).collect::<Option<_>>()?;
    if field("fortran_order")?.starts_with("True") && shape.len() > 1 {
        return Some(Err("is in Fortran order; save numpy.ascontiguousarray of it".into()));
    }
    Some(match data_type(descr) {
        Some(data_type) => Ok((data_type, shape)),
        None => Err(format!("element type {descr:?} is not supported; save it as int64 or float32")),
    })
}

/// The ONNX name of a NumPy type string, little-endian only.
fn data_type(descr: &str) -> Option<DataType> {
    Some(match descr {
        "|b1" => DataType::Bool,
        "|i1" => DataType::Int8,
        "|u1" => DataType::Uint8,
        "<i2" => DataType::Int16,
        "<u2" => DataType::Uint16,
        "<i4" => DataType::Int32,
        "<u4" => DataType::Uint32,
        "<i8" => DataType::Int64,
        "<u8" => DataType::Uint64,
        "<f2" => DataType::Float16,
        "<f4" => DataType::Float,
        "<f8" => DataType::Double,
        _ => return None,
    })
}
