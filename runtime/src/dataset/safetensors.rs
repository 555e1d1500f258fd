//! `.safetensors`: arrays by name, little-endian.

use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use zqc_ir::onnx::proto::tensor_proto::DataType;

use super::arrays::is_input;
use super::error::DataError;
use crate::array::{Array, ArrayError};
use crate::inputs::{InputSpec, Sample};

/// Reads the arrays that are named like inputs.
pub fn read(path: &Path, specs: &[InputSpec]) -> Result<Sample, DataError> {
    let bytes = fs::read(path).map_err(DataError::read(path))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| DataError::Malformed { path: path.into(), reason: error.to_string() })?;
    file.iter()
        .filter(|(name, _)| is_input(specs, name))
        .map(|(name, view)| {
            let array = data_type(view.dtype())
                .and_then(|data_type| Array::from_le_bytes(data_type, view.shape().to_vec(), view.data()))
                .map_err(|source| DataError::Array { path: path.into(), name: name.into(), source })?;
            Ok((name.into(), array))
        })
        .collect()
}

fn data_type(dtype: Dtype) -> Result<DataType, ArrayError> {
    Ok(match dtype {
        Dtype::BOOL => DataType::Bool,
        Dtype::I8 => DataType::Int8,
        Dtype::U8 => DataType::Uint8,
        Dtype::I16 => DataType::Int16,
        Dtype::U16 => DataType::Uint16,
        Dtype::I32 => DataType::Int32,
        Dtype::U32 => DataType::Uint32,
        Dtype::I64 => DataType::Int64,
        Dtype::U64 => DataType::Uint64,
        Dtype::F16 => DataType::Float16,
        Dtype::BF16 => DataType::Bfloat16,
        Dtype::F32 => DataType::Float,
        Dtype::F64 => DataType::Double,
        other => return Err(ArrayError::Unsupported(format!("{other:?}"))),
    })
}
