//! Constant tensors: an ONNX `TensorProto`, kept as it came, with its payload where it lies (in the mapped
//! model file, in a mapped external-data file, or in owned memory).

mod data_type;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::onnx::proto::{TensorProto, tensor_proto::DataLocation};

pub use crate::onnx::proto::tensor_proto::DataType;
pub use data_type::{bits, name};

/// What is wrong with a tensor.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages name the fields
pub enum TensorError {
    /// The element type is none that this version of ONNX defines.
    #[error("element type {0} is unknown to ONNX IR 14")]
    UnknownType(i32),
    /// A dimension is negative, or the number of elements overflows.
    #[error("dimensions {0:?} are negative or overflow")]
    Dimensions(Vec<i64>),
    /// The payload's length does not match the dimensions.
    #[error("{dims:?} of {dtype} needs {expected} bytes, the payload has {found}")]
    Size { dtype: &'static str, dims: Vec<i64>, expected: usize, found: usize },
    /// The tensor cannot be read as numbers of the wanted kind.
    #[error("{found} cannot be read as {wanted}")]
    Kind { found: &'static str, wanted: &'static str },
    /// The payload lies in another file that was not loaded.
    #[error("its external data was not loaded")]
    NotLoaded,
    /// The payload was left out of the text that the model comes from.
    #[error("it is opaque: the text that the model comes from leaves its payload out")]
    Opaque,
}

/// A constant tensor of the graph.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    proto: Arc<TensorProto>,
}

impl Tensor {
    /// A tensor over `data`: row-major, little-endian, 4-bit types packed two a byte, low nibble first.
    ///
    /// # Errors
    /// When the length of `data` does not match `dims`.
    pub fn new(dtype: DataType, dims: &[usize], data: impl Into<Bytes>) -> Result<Self, TensorError> {
        let proto = TensorProto {
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type: Some(dtype as i32),
            raw_data: Some(data.into()),
            ..Default::default()
        };
        let tensor = Self::from_proto(proto);
        tensor.check()?;
        Ok(tensor)
    }

    /// A float32 tensor.
    ///
    /// # Errors
    /// When the number of values does not match `dims`.
    pub fn from_f32(dims: &[usize], values: Vec<f32>) -> Result<Self, TensorError> {
        Self::new(DataType::Float, dims, little_endian(values))
    }

    /// A tensor of `dtype`, one of the four standard floating-point types, of values rounded to nearest.
    ///
    /// # Errors
    /// When the number of values does not match `dims`, or `dtype` is another type.
    pub fn from_f32_as(dtype: DataType, dims: &[usize], values: Vec<f32>) -> Result<Self, TensorError> {
        let bytes = match dtype {
            DataType::Float => little_endian(values),
            DataType::Double => little_endian(values.into_iter().map(f64::from).collect()),
            DataType::Float16 => little_endian(values.into_iter().map(half::f16::from_f32).collect()),
            DataType::Bfloat16 => little_endian(values.into_iter().map(half::bf16::from_f32).collect()),
            other => return Err(TensorError::Kind { found: name(other), wanted: "floating point" }),
        };
        Self::new(dtype, dims, bytes)
    }

    /// An int64 tensor.
    ///
    /// # Errors
    /// When the number of values does not match `dims`.
    pub fn from_i64(dims: &[usize], values: Vec<i64>) -> Result<Self, TensorError> {
        Self::new(DataType::Int64, dims, little_endian(values))
    }

    /// Wraps a tensor of a model file.
    pub(crate) fn from_proto(proto: TensorProto) -> Self {
        Self { proto: Arc::new(proto) }
    }

    /// The tensor as the file has it, under the given name; the payload is shared, not copied.
    pub fn to_proto(&self, name: &str) -> TensorProto {
        TensorProto { name: Some(name.to_string()), ..TensorProto::clone(&self.proto) }
    }

    /// Whether both have the same type, dimensions and payload, in the same place of memory if it is long.
    pub(crate) fn shares_payload(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.proto, &other.proto) {
            return true;
        }
        let (one, other) = (&*self.proto, &*other.proto);
        match (&one.raw_data, &other.raw_data) {
            (Some(raw), Some(others)) => {
                let is_same = raw.as_ptr() == others.as_ptr() && raw.len() == others.len();
                is_same && (one.data_type, &one.dims) == (other.data_type, &other.dims)
            }
            _ => one == other,
        }
    }

    /// The same payload, shared and not copied, under other dimensions.
    ///
    /// # Errors
    /// When these dimensions have another number of elements.
    pub fn reshaped(&self, dims: &[i64]) -> Result<Self, TensorError> {
        let tensor = Self::from_proto(TensorProto { dims: dims.to_vec(), ..TensorProto::clone(&self.proto) });
        tensor.check()?;
        Ok(tensor)
    }

    /// The elements from `start` on, in these dimensions; the payload is shared where it lies in one piece.
    ///
    /// # Errors
    /// When the payload does not match type and dimensions or has fewer elements, or the part does not begin and end with a
    /// byte.
    pub fn part(&self, start: usize, dims: &[i64]) -> Result<Self, TensorError> {
        let count = elements(dims)?;
        if start == 0 && count == self.elements()? {
            return self.reshaped(dims);
        }
        self.check()?;
        let unfit = || TensorError::Dimensions(dims.to_vec());
        let bits = bits(self.dtype()?).ok_or_else(unfit)?;
        let byte =
            |element: usize| element.checked_mul(bits).filter(|bits| bits % 8 == 0).map(|bits| bits / 8);
        let range = byte(start).zip(start.checked_add(count).and_then(byte));
        let data = match &self.proto.raw_data {
            Some(raw) => raw.clone(),
            None => self.bytes()?.into_owned().into(),
        };
        let (from, to) = range.filter(|&(_, to)| to <= data.len()).ok_or_else(unfit)?;
        let dims: Vec<usize> = dims.iter().map(|&dim| dim as usize).collect();
        Self::new(self.dtype()?, &dims, data.slice(from..to))
    }

    /// The parts along the first dimension, which they lack; they share the payload where it lies in one piece.
    ///
    /// # Errors
    /// When the payload does not match type and dimensions, there is no dimension, or a part does not end with a byte.
    pub fn parts(&self) -> Result<Vec<Self>, TensorError> {
        self.check()?;
        let unfit = || TensorError::Dimensions(self.dims().to_vec());
        let (&count, inner) = self.dims().split_first().ok_or_else(unfit)?;
        let size = elements(inner)?;
        (0..count as usize).map(|at| self.part(at * size, inner)).collect()
    }

    /// The element type.
    ///
    /// # Errors
    /// When the code is none that ONNX defines.
    pub fn dtype(&self) -> Result<DataType, TensorError> {
        let code = self.proto.data_type.unwrap_or_default();
        DataType::try_from(code).map_err(|_| TensorError::UnknownType(code))
    }

    /// Whether it has type and dimensions only: the text that the model comes from leaves the payload out.
    pub fn is_opaque(&self) -> bool {
        is_opaque(&self.proto)
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[i64] {
        &self.proto.dims
    }

    /// The two dimensions of a matrix; `None` for any other rank, or for negative dimensions.
    pub fn matrix_dims(&self) -> Option<[usize; 2]> {
        match *self.dims() {
            [rows, cols] => Some([usize::try_from(rows).ok()?, usize::try_from(cols).ok()?]),
            _ => None,
        }
    }

    /// The number of elements.
    ///
    /// # Errors
    /// When a dimension is negative or the product overflows.
    pub fn elements(&self) -> Result<usize, TensorError> {
        elements(self.dims())
    }

    /// The payload's size in bytes, as its type and dimensions demand it.
    ///
    /// # Errors
    /// As [`Tensor::dtype`] and [`Tensor::elements`]; strings have no fixed size.
    pub fn byte_len(&self) -> Result<usize, TensorError> {
        let dtype = self.dtype()?;
        let bits =
            bits(dtype).ok_or(TensorError::Kind { found: name(dtype), wanted: "a type of fixed size" })?;
        let total = self.elements()?.checked_mul(bits);
        Ok(total.ok_or_else(|| TensorError::Dimensions(self.dims().to_vec()))?.div_ceil(8))
    }

    /// Checks that type, dimensions and payload agree.
    ///
    /// # Errors
    /// The first disagreement found.
    pub fn check(&self) -> Result<(), TensorError> {
        let dtype = self.dtype()?;
        match dtype {
            DataType::Undefined => return Err(TensorError::UnknownType(dtype as i32)),
            DataType::String => return self.elements().map(drop),
            _ => {}
        }
        let (expected, found) = (self.byte_len()?, self.bytes()?.len());
        if expected != found {
            return Err(TensorError::Size {
                dtype: name(dtype),
                dims: self.dims().to_vec(),
                expected,
                found,
            });
        }
        Ok(())
    }

    /// The payload as row-major little-endian bytes; borrowed unless the file spelled it in a typed field.
    ///
    /// # Errors
    /// When the payload is external and not loaded, or of strings.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>, TensorError> {
        if is_external(&self.proto) {
            return Err(if self.is_opaque() { TensorError::Opaque } else { TensorError::NotLoaded });
        }
        if let Some(raw) = &self.proto.raw_data {
            return Ok(Cow::Borrowed(raw));
        }
        let dtype = self.dtype()?;
        let ints = &self.proto.int32_data;
        Ok(Cow::Owned(match dtype {
            DataType::Float | DataType::Complex64 => little_endian(self.proto.float_data.clone()),
            DataType::Double | DataType::Complex128 => little_endian(self.proto.double_data.clone()),
            DataType::Int64 => little_endian(self.proto.int64_data.clone()),
            DataType::Uint64 => little_endian(self.proto.uint64_data.clone()),
            DataType::Uint32 => {
                little_endian(self.proto.uint64_data.iter().map(|&v| v as u32).collect::<Vec<_>>())
            }
            DataType::Int32 => little_endian(ints.clone()),
            DataType::Int16 | DataType::Uint16 | DataType::Float16 | DataType::Bfloat16 => {
                little_endian(ints.iter().map(|&v| v as u16).collect::<Vec<_>>())
            }
            DataType::String | DataType::Undefined => {
                return Err(TensorError::Kind { found: name(dtype), wanted: "numbers" });
            }
            DataType::Float6e2m3 | DataType::Float6e3m2 => ints.chunks(4).flat_map(pack_sixes).collect(),
            _ => ints.iter().map(|&v| v as u8).collect(),
        }))
    }

    /// The values widened or narrowed to float32 (float16, bfloat16, float32 and float64 tensors only).
    ///
    /// # Errors
    /// When the tensor holds another type, or its payload has the wrong size.
    pub fn to_f32(&self) -> Result<Vec<f32>, TensorError> {
        self.check()?;
        let bytes = self.bytes()?;
        fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks::<N>().0.iter().map(|&chunk| f(chunk)).collect()
        }
        Ok(match self.dtype()? {
            DataType::Float => each(&bytes, f32::from_le_bytes),
            DataType::Double => each(&bytes, |b| f64::from_le_bytes(b) as f32),
            DataType::Float16 => each(&bytes, |b| half::f16::from_le_bytes(b).to_f32()),
            DataType::Bfloat16 => each(&bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
            other => return Err(TensorError::Kind { found: name(other), wanted: "floating point" }),
        })
    }
}

impl Tensor {
    /// The values of an integer tensor of 32 or 64 bits: shapes, axes, indices.
    ///
    /// # Errors
    /// When the tensor holds another type, or its payload has the wrong size.
    pub fn to_i64(&self) -> Result<Vec<i64>, TensorError> {
        self.check()?;
        let bytes = self.bytes()?;
        match self.dtype()? {
            DataType::Int64 => Ok(bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect()),
            DataType::Int32 => {
                Ok(bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect())
            }
            other => Err(TensorError::Kind { found: name(other), wanted: "integers" }),
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{:?})", self.dtype().map_or("?", name), self.dims())
    }
}

/// The number of elements in these dimensions.
fn elements(dims: &[i64]) -> Result<usize, TensorError> {
    let count = dims.iter().try_fold(1usize, |count, &dim| count.checked_mul(usize::try_from(dim).ok()?));
    count.ok_or_else(|| TensorError::Dimensions(dims.to_vec()))
}

/// Whether the payload lies in another file.
pub(crate) fn is_external(proto: &TensorProto) -> bool {
    proto.data_location == Some(DataLocation::External as i32)
}

/// See [`Tensor::is_opaque`]: the payload lies elsewhere, and nobody says where.
pub(crate) fn is_opaque(proto: &TensorProto) -> bool {
    is_external(proto) && proto.external_data.is_empty()
}

/// Up to four 6-bit codes, of which `int32_data` has one an entry, as the bytes of `raw_data`: bit after bit, the
/// lowest first.
fn pack_sixes(codes: &[i32]) -> impl Iterator<Item = u8> + use<> {
    let packed = codes.iter().rev().fold(0u32, |packed, &code| packed << 6 | (code as u32 & 0x3f));
    packed.to_le_bytes().into_iter().take((6 * codes.len()).div_ceil(8))
}

fn little_endian<T: bytemuck::NoUninit>(values: Vec<T>) -> Vec<u8> {
    const { assert!(cfg!(target_endian = "little"), "zqc writes native bytes as ONNX's little-endian") };
    match bytemuck::allocation::try_cast_vec(values) {
        Ok(bytes) => bytes,
        Err((_, values)) => bytemuck::cast_slice(&values).to_vec(),
    }
}

#[cfg(test)]
mod tests;
