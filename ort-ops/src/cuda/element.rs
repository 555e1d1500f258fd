//! Element types as kernels for CUDA take them.

use zqc_cuda::DataType;

use crate::element::Element;
use crate::error::OpError;

/// The type of an element that kernels read and write.
pub(super) fn data_type(element: Element) -> Result<DataType, OpError> {
    match element {
        Element::F32 => Ok(DataType::F32),
        Element::F16 => Ok(DataType::F16),
        Element::BF16 => Ok(DataType::Bf16),
        other => Err(OpError::CudaType(other)),
    }
}
