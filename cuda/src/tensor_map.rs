//! An output matrix as the TMA of the prefill kernel stores it.

use cudarc::driver::sys::{
    CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle, cuTensorMapEncodeTiled,
};

use crate::error::{Action, Error};
use crate::loaded::RawOutput;
use crate::variant::DataType;

/// Outputs and tokens of a box: those that a warpgroup transposes at a time, rows of 128 bytes.
const BOX: [u32; 2] = [64, 32];

/// What the TMA asks of an address and of the bytes from one row to the next.
const ALIGNMENT: u64 = 16;

/// The tensor map of `tokens` rows of `n` outputs. Zeros, which the kernel does not look at, where the rows are of f32 or not aligned:
/// these it stores by itself.
///
/// # Errors
/// When the driver refuses.
pub(crate) fn tensor_map(output: &RawOutput, n: usize, tokens: usize) -> Result<CUtensorMap, Error> {
    let mut map = CUtensorMap { opaque: [0; 16] };
    let element_type = match output.data_type {
        DataType::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        DataType::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        DataType::F32 => return Ok(map),
    };
    let stride = (output.stride * output.data_type.size()) as u64;
    if !(output.y | stride).is_multiple_of(ALIGNMENT) {
        return Ok(map);
    }
    // SAFETY: the arrays have as many elements as the two dimensions ask for, and the driver keeps none of them; it does not read
    // what lies at the output's address.
    unsafe {
        cuTensorMapEncodeTiled(
            &mut map,
            element_type,
            2,
            output.y as *mut _,
            [n as u64, tokens as u64].as_ptr(),
            [stride].as_ptr(),
            BOX.as_ptr(),
            [1, 1].as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()
    .during("describing an output to the TMA")?;
    Ok(map)
}
