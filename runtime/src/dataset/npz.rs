//! `.npz`: NumPy arrays by name in a zip archive.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;
use zqc_ir::onnx::proto::tensor_proto::DataType;

use super::error::DataError;
use crate::array::{Array, ArrayError, element_count};
use crate::inputs::{InputSpec, Sample};

/// A header longer than this is no array's; NumPy's own take less than 200 bytes.
const MAX_HEADER: usize = 1 << 16;

/// Up to this size an array may unpack from next to nothing, and beyond it at most in this ratio: a mask of ones is a
/// thousandth of its size, a file of such ratios made to fill the memory.
const MOST_UNPACKED: u64 = 64 << 20;
const MOST_RATIO: u64 = 200;

/// Reads the arrays that are named like inputs.
pub fn read(path: &Path, specs: &[InputSpec]) -> Result<Sample, DataError> {
    let file = File::open(path).map_err(DataError::read(path))?;
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
        let (header, data) = parse_npy(&bytes).map_err(in_array)?;
        let array = header.array(data);
        let in_file = |source| DataError::Array { path: path.into(), name: name.clone(), source };
        arrays.insert(name.clone(), array.map_err(in_file)?);
    }
    Ok(arrays)
}

/// What the header of an `.npy` file says of its elements.
struct Header {
    data_type: DataType,
    shape: Vec<usize>,
    /// Bytes of an element.
    width: usize,
    big_endian: bool,
    /// Whether the first dimension, not the last, is the fastest.
    fortran_order: bool,
}

impl Header {
    fn array(self, data: &[u8]) -> Result<Array, ArrayError> {
        let mut data = Cow::Borrowed(data);
        if self.big_endian {
            data.to_mut().chunks_exact_mut(self.width).for_each(<[u8]>::reverse);
        }
        // An array of another size than its shape's is refused below.
        let elements =
            element_count(&self.shape).filter(|count| count.checked_mul(self.width) == Some(data.len()));
        if self.fortran_order && elements.is_some() {
            data = Cow::Owned(row_major(&data, self.width, &self.shape));
        }
        Array::from_le_bytes(self.data_type, self.shape, &data)
    }
}

/// The elements of an array in Fortran order, of `width` bytes each, with the last dimension fastest.
fn row_major(data: &[u8], width: usize, shape: &[usize]) -> Vec<u8> {
    let mut ordered = Vec::with_capacity(data.len());
    let mut index = vec![0; shape.len()];
    for _ in 0..data.len() / width {
        let place = index.iter().zip(shape).rev().fold(0, |place, (&i, &extent)| place * extent + i);
        ordered.extend_from_slice(&data[place * width..][..width]);
        for (i, &extent) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < extent {
                break;
            }
            *i = 0;
        }
    }
    ordered
}

/// Header and data of an `.npy` file: magic, version, length of the header, the header as a Python dictionary, the elements.
fn parse_npy(bytes: &[u8]) -> Result<(Header, &[u8]), String> {
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
    let header = header.and_then(parse_header).ok_or("its header is not that of an array")??;
    Ok((header, data))
}

/// Reads `{'descr': '<i8', 'fortran_order': False, 'shape': (3, 4), }`; `None` when the header is not of this form.
fn parse_header(header: &str) -> Option<Result<Header, String>> {
    let field = |key: &str| Some(header.split_once(&format!("'{key}':"))?.1.trim_start());
    let (descr, _) = field("descr")?.strip_prefix('\'')?.split_once('\'')?;
    let (shape, _) = field("shape")?.strip_prefix('(')?.split_once(')')?;
    let extents = shape.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    let shape: Vec<usize> = extents.map(|extent| extent.parse().ok()).collect::<Option<_>>()?;
    let fortran_order = field("fortran_order")?.starts_with("True");
    Some(match descr.split_at_checked(1).and_then(|(order, kind)| Some((order, data_type(kind)?))) {
        Some((order @ ("<" | ">" | "|"), (data_type, width))) => {
            Ok(Header { data_type, shape, width, big_endian: order == ">", fortran_order })
        }
        _ => Err(format!("element type {descr:?} is not supported; save it as int64 or float32")),
    })
}

/// The ONNX name of a NumPy type, and the bytes of an element.
fn data_type(kind: &str) -> Option<(DataType, usize)> {
    Some(match kind {
        "b1" => (DataType::Bool, 1),
        "i1" => (DataType::Int8, 1),
        "u1" => (DataType::Uint8, 1),
        "i2" => (DataType::Int16, 2),
        "u2" => (DataType::Uint16, 2),
        "i4" => (DataType::Int32, 4),
        "u4" => (DataType::Uint32, 4),
        "i8" => (DataType::Int64, 8),
        "u8" => (DataType::Uint64, 8),
        "f2" => (DataType::Float16, 2),
        "f4" => (DataType::Float, 4),
        "f8" => (DataType::Double, 8),
        _ => return None,
    })
}
