//! Element types of tensors.

use std::fmt;

use ort_sys::ONNXTensorElementDataType;
use zqc_formats::{ActivationFormat, FactorFormat, Format};

/// The element type of a tensor, by ONNX's number, which is `TensorProto.DataType` and `ONNXTensorElementDataType` alike.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element(pub i32);

impl Element {
    /// Any type: the operator is told which by what it reads or by an attribute.
    pub(crate) const ANY: Self = Self(0);
    pub(crate) const F32: Self = Self(1);
    pub(crate) const U8: Self = Self(2);
    pub(crate) const I8: Self = Self(3);
    pub(crate) const I32: Self = Self(6);
    pub(crate) const I64: Self = Self(7);
    pub(crate) const F16: Self = Self(10);
    pub(crate) const F64: Self = Self(11);
    pub(crate) const BF16: Self = Self(16);
    pub(crate) const E4M3: Self = Self(17);
    pub(crate) const E5M2: Self = Self(19);

    /// Bytes of an element; 0 for types that no operator here reads.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::E4M3 | Self::E5M2 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
            _ => 0,
        }
    }

    /// The type of activations' codes.
    pub(crate) const fn of_activation(format: ActivationFormat) -> Self {
        match format {
            ActivationFormat::E4M3 => Self::E4M3,
            ActivationFormat::E5M2 => Self::E5M2,
            ActivationFormat::Int8 => Self::U8,
        }
    }

    /// The type of weights' codes.
    pub(crate) const fn of_weight(format: Format) -> Self {
        match format {
            Format::E4M3 => Self::E4M3,
            Format::E5M2 => Self::E5M2,
            _ => Self::of_table(format),
        }
    }

    /// The type of codes in a table: FP8 lies there as bytes, since ONNX's `Gather` knows no FP8.
    pub(crate) const fn of_table(format: Format) -> Self {
        match format {
            Format::Int8 => Self::I8,
            _ => Self::U8,
        }
    }

    /// The type of low-rank factors.
    pub(crate) const fn of_factors(format: FactorFormat) -> Self {
        match format {
            FactorFormat::E4M3 => Self::E4M3,
            FactorFormat::Bf16 => Self::BF16,
        }
    }

    /// As the bindings have it.
    pub(crate) const fn binding(self) -> ONNXTensorElementDataType {
        use ONNXTensorElementDataType::*;
        match self {
            Self::F32 => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
            Self::U8 => ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
            Self::I8 => ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
            Self::I32 => ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
            Self::I64 => ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
            Self::F16 => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
            Self::F64 => ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
            Self::BF16 => ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
            Self::E4M3 => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN,
            Self::E5M2 => ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2,
            _ => ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED,
        }
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::ANY => "undefined",
            Self::F32 => "float32",
            Self::U8 => "uint8",
            Self::I8 => "int8",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::F16 => "float16",
            Self::F64 => "float64",
            Self::BF16 => "bfloat16",
            Self::E4M3 => "float8e4m3fn",
            Self::E5M2 => "float8e5m2",
            Self(other) => return write!(f, "element type {other}"),
        })
    }
}
