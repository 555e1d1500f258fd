//! Host tensors: what goes into a back end and what comes out of it.

use std::sync::Arc;

use half::{bf16, f16};
use zqc_ir::Tensor;
use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_ir::tensor::TensorError;

/// A dense tensor in host memory, row-major.
///
/// `shape` and `data` agree when the array was made by [`Array::new`]; a dimension may be zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Extent of every dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, last dimension fastest.
    pub data: ArrayData,
}

/// The elements of an [`Array`], which its clones share. Floats narrower or wider than 32 bits are held as `f32`.
#[derive(Clone, Debug, PartialEq)]
pub enum ArrayData {
    /// FLOAT, and FLOAT16, BFLOAT16 or DOUBLE after conversion.
    F32(Arc<Vec<f32>>),
    /// INT64, and UINT32 or UINT64 after conversion.
    I64(Arc<Vec<i64>>),
    /// INT32, and INT16 or UINT16 after conversion.
    I32(Arc<Vec<i32>>),
    /// INT8.
    I8(Arc<Vec<i8>>),
    /// UINT8.
    U8(Arc<Vec<u8>>),
    /// BOOL.
    Bool(Arc<Vec<bool>>),
}

/// Why an [`Array`] could not be made or converted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ArrayError {
    /// Shape and number of elements disagree, or the shape's product overflows.
    #[error("shape {shape:?} does not hold {len} elements")]
    Length {
        /// The shape as given.
        shape: Vec<usize>,
        /// The number of elements present.
        len: usize,
    },
    /// The element type has no host form.
    #[error("element type {0} is not supported")]
    Unsupported(String),
    /// The conversion would lose values.
    #[error("elements of type {from} cannot become {to}{detail}")]
    Conversion {
        /// Name of the present element type.
        from: &'static str,
        /// Name of the wanted element type.
        to: &'static str,
        /// The offending value, or nothing.
        detail: String,
    },
    /// A constant cannot be read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

macro_rules! data_from_vec {
    ($($variant:ident($element:ty)),*) => {$(
        impl From<Vec<$element>> for ArrayData {
            fn from(elements: Vec<$element>) -> Self {
                ArrayData::$variant(Arc::new(elements))
            }
        }
    )*};
}
data_from_vec!(F32(f32), I64(i64), I32(i32), I8(i8), U8(u8), Bool(bool));

/// Evaluates `$body` with `$elements` bound to the shared vector of whichever variant `$data` is.
macro_rules! with_elements {
    ($data:expr, $elements:ident => $body:expr) => {
        match $data {
            ArrayData::F32($elements) => $body,
            ArrayData::I64($elements) => $body,
            ArrayData::I32($elements) => $body,
            ArrayData::I8($elements) => $body,
            ArrayData::U8($elements) => $body,
            ArrayData::Bool($elements) => $body,
        }
    };
}

impl ArrayData {
    /// Number of elements.
    pub fn len(&self) -> usize {
        with_elements!(self, elements => elements.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ONNX element type that this variant stands for.
    pub fn data_type(&self) -> DataType {
        match self {
            ArrayData::F32(_) => DataType::Float,
            ArrayData::I64(_) => DataType::Int64,
            ArrayData::I32(_) => DataType::Int32,
            ArrayData::I8(_) => DataType::Int8,
            ArrayData::U8(_) => DataType::Uint8,
            ArrayData::Bool(_) => DataType::Bool,
        }
    }

    /// The elements as integers, or `None` for floats.
    fn integers(&self) -> Option<Vec<i64>> {
        Some(match self {
            ArrayData::F32(_) => return None,
            ArrayData::I64(v) => v.to_vec(),
            ArrayData::I32(v) => v.iter().map(|&x| x.into()).collect(),
            ArrayData::I8(v) => v.iter().map(|&x| x.into()).collect(),
            ArrayData::U8(v) => v.iter().map(|&x| x.into()).collect(),
            ArrayData::Bool(v) => v.iter().map(|&x| x.into()).collect(),
        })
    }
}

impl Array {
    /// The elements as integers; `None` for floats.
    pub(crate) fn integers(&self) -> Option<Vec<i64>> {
        self.data.integers()
    }

    /// An array of the given shape.
    ///
    /// # Errors
    /// [`ArrayError::Length`] when the product of `shape` is not the number of elements.
    pub fn new(shape: Vec<usize>, data: impl Into<ArrayData>) -> Result<Self, ArrayError> {
        let data = data.into();
        if element_count(&shape) != Some(data.len()) {
            return Err(ArrayError::Length { shape, len: data.len() });
        }
        Ok(Self { shape, data })
    }

    /// A rank-2 array of one row: a batch of one token sequence.
    pub fn sequence(tokens: Vec<i64>) -> Self {
        Self { shape: vec![1, tokens.len()], data: tokens.into() }
    }

    /// The values of a constant of a graph.
    ///
    /// # Errors
    /// [`ArrayError::Tensor`] when the constant is malformed, and as [`Array::from_le_bytes`].
    pub fn of_tensor(tensor: &Tensor) -> Result<Self, ArrayError> {
        let shape = tensor.dims().iter().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>();
        let shape = shape.map_err(|_| TensorError::Dimensions(tensor.dims().to_vec()))?;
        Self::from_le_bytes(tensor.dtype()?, shape, &tensor.bytes()?)
    }

    /// Decodes little-endian `bytes` of ONNX element type `data_type`; see [`ArrayData`] for the type it becomes.
    ///
    /// # Errors
    /// [`ArrayError::Length`] when `bytes` does not fill `shape` exactly, [`ArrayError::Unsupported`] for strings,
    /// complex numbers and formats below 8 bits, [`ArrayError::Conversion`] for a UINT64 beyond INT64.
    pub fn from_le_bytes(data_type: DataType, shape: Vec<usize>, bytes: &[u8]) -> Result<Self, ArrayError> {
        fn decode<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
            bytes.as_chunks::<N>().0.iter().map(|&chunk| convert(chunk)).collect()
        }
        let width = match data_type {
            DataType::Bool | DataType::Int8 | DataType::Uint8 => 1,
            DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => 2,
            DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
            DataType::Double | DataType::Int64 | DataType::Uint64 => 8,
            other => return Err(ArrayError::Unsupported(other.as_str_name().into())),
        };
        if element_count(&shape).and_then(|count| count.checked_mul(width)) != Some(bytes.len()) {
            return Err(ArrayError::Length { shape, len: bytes.len() / width });
        }
        let data: ArrayData = match data_type {
            DataType::Bool => decode(bytes, |[b]| b != 0).into(),
            DataType::Int8 => decode(bytes, i8::from_le_bytes).into(),
            DataType::Uint8 => bytes.to_vec().into(),
            DataType::Float16 => decode(bytes, |b| f16::from_le_bytes(b).to_f32()).into(),
            DataType::Bfloat16 => decode(bytes, |b| bf16::from_le_bytes(b).to_f32()).into(),
            DataType::Int16 => decode(bytes, |b| i32::from(i16::from_le_bytes(b))).into(),
            DataType::Uint16 => decode(bytes, |b| i32::from(u16::from_le_bytes(b))).into(),
            DataType::Float => decode(bytes, f32::from_le_bytes).into(),
            DataType::Int32 => decode(bytes, i32::from_le_bytes).into(),
            DataType::Uint32 => decode(bytes, |b| i64::from(u32::from_le_bytes(b))).into(),
            DataType::Double => decode(bytes, |b| f64::from_le_bytes(b) as f32).into(),
            DataType::Int64 => decode(bytes, i64::from_le_bytes).into(),
            _ => narrow::<_, i64>(decode(bytes, u64::from_le_bytes), "UINT64", "INT64")?,
        };
        Ok(Self { shape, data })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The elements of a float array, or `None`.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            ArrayData::F32(elements) => Some(elements),
            _ => None,
        }
    }

    /// The elements of an integer or boolean array widened to 64 bits, or `None` for floats.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        self.data.integers()
    }

    /// The same values as ONNX element type `to` wants them: every float type is held as `f32`, integers may
    /// change width while every value fits, 0 and 1 may become BOOL, and integers may become floats.
    ///
    /// # Errors
    /// [`ArrayError::Conversion`] when a value would be lost, [`ArrayError::Unsupported`] when `to` has no host form.
    pub fn cast(self, to: DataType) -> Result<Self, ArrayError> {
        if self.data.data_type() == to {
            return Ok(self);
        }
        let from = self.data.data_type().as_str_name();
        let integers = || {
            let no_integers = ArrayError::Conversion { from, to: to.as_str_name(), detail: String::new() };
            self.data.integers().ok_or(no_integers)
        };
        let data = match to {
            DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double => match self.data {
                ArrayData::F32(elements) => ArrayData::F32(elements),
                _ => integers()?.into_iter().map(|x| x as f32).collect::<Vec<_>>().into(),
            },
            DataType::Int64 => integers()?.into(),
            DataType::Int32 => narrow::<_, i32>(integers()?, from, "INT32")?,
            DataType::Int8 => narrow::<_, i8>(integers()?, from, "INT8")?,
            DataType::Uint8 => narrow::<_, u8>(integers()?, from, "UINT8")?,
            DataType::Bool => {
                let bits = integers()?;
                match bits.iter().find(|&&x| x != 0 && x != 1) {
                    None => bits.into_iter().map(|x| x == 1).collect::<Vec<_>>().into(),
                    Some(x) => {
                        let detail = format!(": one of them is {x}");
                        return Err(ArrayError::Conversion { from, to: "BOOL", detail });
                    }
                }
            }
            other => return Err(ArrayError::Unsupported(other.as_str_name().into())),
        };
        Ok(Self { shape: self.shape, data })
    }

    /// The slices of an `[n, ...]` array along its first dimension, each `[1, ...]`; none for a scalar.
    pub fn rows(&self) -> impl Iterator<Item = Array> + '_ {
        let count = self.shape.first().copied().unwrap_or(0);
        let width = self.len().checked_div(count).unwrap_or(0);
        (0..count).map(move |row| {
            let range = row * width..(row + 1) * width;
            let mut shape = self.shape.clone();
            shape[0] = 1;
            Array { shape, data: with_elements!(&self.data, elements => elements[range].to_vec().into()) }
        })
    }
}

/// Product of the dimensions, or `None` on overflow.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))
}

/// Integers as the narrower type `T`, checked.
fn narrow<S, T>(elements: Vec<S>, from: &'static str, to: &'static str) -> Result<ArrayData, ArrayError>
where
    S: Copy + std::fmt::Display,
    T: TryFrom<S>,
    ArrayData: From<Vec<T>>,
{
    let narrowed: Result<Vec<T>, ArrayError> = elements
        .into_iter()
        .map(|x| {
            let detail = format!(": one of them is {x}");
            T::try_from(x).map_err(|_| ArrayError::Conversion { from, to, detail })
        })
        .collect();
    narrowed.map(ArrayData::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_type_becomes_f32() {
        let half = f16::from_f32(-1.5).to_le_bytes();
        let brain = bf16::from_f32(-1.5).to_le_bytes();
        let double = (-1.5f64).to_le_bytes();
        for (data_type, bytes) in [
            (DataType::Float16, &half[..]),
            (DataType::Bfloat16, &brain[..]),
            (DataType::Double, &double[..]),
        ] {
            let array = Array::from_le_bytes(data_type, vec![1], bytes).unwrap();
            assert_eq!(array.as_f32(), Some(&[-1.5][..]), "{data_type:?}");
        }
    }

    #[test]
    fn bytes_must_fill_the_shape() {
        for shape in [vec![3], vec![usize::MAX, 2], vec![1 << 62], vec![]] {
            let error = Array::from_le_bytes(DataType::Float, shape.clone(), &[0; 8]).unwrap_err();
            assert_eq!(error, ArrayError::Length { shape, len: 2 });
        }
        assert!(Array::from_le_bytes(DataType::Float, vec![1], &[0; 7]).is_err());
        let empty = Array::from_le_bytes(DataType::Float, vec![1, 4, 0, 8], &[]).unwrap();
        assert!(empty.is_empty());
    }

    #[test]
    fn casts_keep_every_value_or_fail() {
        let ints = Array::new(vec![2], vec![0i64, 1]).unwrap();
        assert_eq!(ints.clone().cast(DataType::Bool).unwrap().data, vec![false, true].into());
        assert_eq!(ints.clone().cast(DataType::Int32).unwrap().data, vec![0i32, 1].into());
        assert_eq!(ints.cast(DataType::Float16).unwrap().data, vec![0f32, 1.0].into());

        let large = Array::new(vec![1], vec![1i64 << 40]).unwrap();
        assert!(matches!(large.clone().cast(DataType::Int32), Err(ArrayError::Conversion { .. })));
        assert!(matches!(large.cast(DataType::Bool), Err(ArrayError::Conversion { .. })));
        let float = Array::new(vec![1], vec![0.5f32]).unwrap();
        assert!(matches!(float.clone().cast(DataType::Int64), Err(ArrayError::Conversion { .. })));
        assert!(matches!(float.cast(DataType::String), Err(ArrayError::Unsupported(_))));
        let unsigned = Array::from_le_bytes(DataType::Uint64, vec![1], &u64::MAX.to_le_bytes());
        assert!(matches!(unsigned, Err(ArrayError::Conversion { .. })));
    }

    #[test]
    fn rows_are_batches_of_one() {
        let array = Array::new(vec![2, 3], vec![1i64, 2, 3, 4, 5, 6]).unwrap();
        let rows: Vec<_> = array.rows().collect();
        assert_eq!(rows, [Array::sequence(vec![1, 2, 3]), Array::sequence(vec![4, 5, 6])]);
        assert_eq!(Array::new(vec![], vec![1i64]).unwrap().rows().count(), 0);
        assert_eq!(Array::new(vec![0, 3], Vec::<i64>::new()).unwrap().rows().count(), 0);
        let empty = Array::new(vec![2, 0], Vec::<f32>::new()).unwrap();
        assert_eq!(empty.rows().next().unwrap().shape, [1, 0]);
    }
}
