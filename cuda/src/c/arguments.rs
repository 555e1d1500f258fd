//! The structs of the interface as the launcher takes them, checked.

use std::ffi::c_void;

use cudarc::driver::sys::CUdeviceptr;
use zqc_kernels::ALIGNMENT;

use super::status::{Failure, invalid};
use crate::input::{RawInput, check_stride};
use crate::loaded::RawOutput;
use crate::variant::{DataType, LinearKernel, LinearVariant, Prologue};

/// `zqc_input`.
#[repr(C)]
pub(super) struct CInput {
    x: *const c_void,
    second: *const c_void,
    x_stride: usize,
    second_stride: usize,
    data_type: u32,
    prologue: u32,
    epsilon: f32,
}

/// `zqc_output`.
#[repr(C)]
pub(super) struct COutput {
    y: *mut c_void,
    stride: usize,
    data_type: u32,
}

/// `zqc_variant`.
#[repr(C)]
pub(super) struct CVariant {
    kernel: u32,
    tokens: u32,
    cluster: u32,
    blocks_per_sm: u32,
}

pub(super) fn data_type(number: u32) -> Result<DataType, Failure> {
    let found = DataType::ALL.get(number as usize).copied();
    found.ok_or_else(|| invalid(format!("no element type {number}")))
}

/// The address of elements, aligned to their size: a kernel that reads an element across its alignment fails, and with it every later call in the context.
fn address(what: &str, pointer: *const c_void, data_type: DataType) -> Result<CUdeviceptr, Failure> {
    let (address, size) = (pointer as CUdeviceptr, data_type.size());
    if address.is_multiple_of(size as CUdeviceptr) {
        return Ok(address);
    }
    Err(invalid(format!("{what} is {address:#x}, no multiple of the {size} bytes of its elements")))
}

pub(super) fn raw_input(input: &CInput, k: usize, tokens: usize) -> Result<RawInput, Failure> {
    let number = input.prologue;
    let prologue = Prologue::ALL.get(number as usize).copied();
    let prologue = prologue.ok_or_else(|| invalid(format!("no prologue {number}")))?;
    if tokens > 0 && input.x.is_null() {
        return Err(invalid("x is null"));
    }
    if tokens > 0 && prologue != Prologue::None && input.second.is_null() {
        return Err(invalid("second is null"));
    }
    let data_type = data_type(input.data_type)?;
    Ok(RawInput {
        prologue,
        data_type: Some(data_type),
        x: address("x", input.x, data_type)?,
        x_stride: stride("x_stride", input.x_stride, k)?,
        second: match prologue {
            Prologue::None => 0,
            Prologue::RmsNorm | Prologue::SiluMul => address("second", input.second, data_type)?,
        },
        second_stride: match prologue {
            Prologue::SiluMul => stride("second_stride", input.second_stride, k)?,
            Prologue::None | Prologue::RmsNorm => k,
        },
        epsilon: input.epsilon,
    })
}

pub(super) fn linear_variant(variant: &CVariant) -> Result<LinearVariant, Failure> {
    let &CVariant { kernel, tokens, cluster, blocks_per_sm } = variant;
    let kernel = match kernel {
        0 => LinearKernel::Decode,
        1 => LinearKernel::Prefill,
        _ => return Err(invalid(format!("no linear kernel {kernel}"))),
    };
    Ok(LinearVariant { kernel, tokens, cluster, blocks_per_sm }.check()?)
}

pub(super) fn raw_output(output: &COutput, n: usize) -> Result<RawOutput, Failure> {
    let data_type = data_type(output.data_type)?;
    let y = address("y", output.y, data_type)?;
    Ok(RawOutput { y, stride: stride("stride", output.stride, n)?, data_type })
}

/// The address of a quantized input, whose parts kernels copy as a whole.
pub(super) fn quantized_address(pointer: *const c_void, tokens: usize) -> Result<CUdeviceptr, Failure> {
    let address = pointer as CUdeviceptr;
    if tokens > 0 && pointer.is_null() {
        return Err(invalid("the memory of the quantized input is null"));
    }
    if address.is_multiple_of(ALIGNMENT as CUdeviceptr) {
        return Ok(address);
    }
    Err(invalid(format!(
        "the memory of the quantized input is at {address:#x}, no multiple of {ALIGNMENT} bytes"
    )))
}

fn stride(what: &'static str, given: usize, columns: usize) -> Result<usize, Failure> {
    let stride = if given == 0 { columns } else { given };
    check_stride(what, stride, columns)?;
    Ok(stride)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_multiples_of_the_size_of_an_element() {
        let input = |x: usize, second: usize, data_type: DataType, prologue: Prologue| {
            let input = CInput {
                x: x as *const c_void,
                second: second as *const c_void,
                x_stride: 0,
                second_stride: 0,
                data_type: data_type as u32,
                prologue: prologue as u32,
                epsilon: 0.0,
            };
            raw_input(&input, 8, 1).map(|raw| (raw.x, raw.second)).map_err(|failure| failure.message)
        };
        use DataType::{Bf16, F16, F32};
        use Prologue::{None, RmsNorm, SiluMul};
        assert_eq!(input(0x1002, 0, Bf16, None), Ok((0x1002, 0)));
        assert_eq!(input(0x1004, 0x1008, F32, SiluMul), Ok((0x1004, 0x1008)));
        assert_eq!(input(0x1002, 0x1001, F16, None), Ok((0x1002, 0)), "nothing reads it");
        for (x, second, data_type, prologue, message) in [
            (0x1001, 0, Bf16, None, "x is 0x1001, no multiple of the 2 bytes of its elements"),
            (0x1002, 0, F32, None, "x is 0x1002, no multiple of the 4 bytes of its elements"),
            (0x1000, 0x1003, F16, RmsNorm, "second is 0x1003, no multiple of the 2 bytes of its elements"),
            (0x1000, 0x1006, F32, SiluMul, "second is 0x1006, no multiple of the 4 bytes of its elements"),
        ] {
            assert_eq!(input(x, second, data_type, prologue), Err(message.to_string()));
        }
        let quantized = |address: usize, tokens| {
            quantized_address(address as *const c_void, tokens).map_err(|failure| failure.message)
        };
        assert_eq!((quantized(0x1100, 1), quantized(0, 0)), (Ok(0x1100), Ok(0)));
        assert_eq!(quantized(0, 1), Err("the memory of the quantized input is null".to_string()));
        let message = "the memory of the quantized input is at 0x1080, no multiple of 256 bytes";
        assert_eq!(quantized(0x1080, 1), Err(message.to_string()));
        let output = COutput { y: 0x1002 as *mut c_void, stride: 0, data_type: F32 as u32 };
        let message = raw_output(&output, 8).map(|raw| raw.y).map_err(|failure| failure.message);
        assert_eq!(message, Err("y is 0x1002, no multiple of the 4 bytes of its elements".to_string()));
    }
}
