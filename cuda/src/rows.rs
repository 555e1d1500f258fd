//! Kernels on matrices that lie row by row, as ONNX has them: quantization of activations.

use std::ffi::c_void;
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::{CUdeviceptr, CUstream};

use crate::device::Device;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::loaded::argument;
use crate::variant::{DataType, Specialization};

/// Quantizes activations to E4M3.
#[derive(Debug)]
pub struct RowQuantizer {
    device: Device,
    kernels: [OnceLock<Arc<Kernel>>; DataType::ALL.len()],
}

impl RowQuantizer {
    /// One for a device.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), kernels: Default::default() }
    }

    /// Quantizes `tokens` rows of `k` values at `x` to codes `[tokens][k]` and a scale in f32 for each, put on the stream. The
    /// numbers are those of the function `QuantizeActivationE4M3`.
    ///
    /// # Errors
    /// When a dimension is too large, the kernel does not compile or load, or the driver refuses.
    ///
    /// # Safety
    /// The addresses are of device memory, as long as is said and valid until the stream has done what is put on it here; the
    /// stream is of the device.
    pub unsafe fn quantize(
        &self,
        x: (CUdeviceptr, DataType),
        [tokens, k]: [usize; 2],
        codes: CUdeviceptr,
        scales: CUdeviceptr,
        stream: CUstream,
    ) -> Result<(), Error> {
        let (x, data_type) = x;
        let blocks = count("the tokens", tokens)?;
        let k = dimension("the columns", k)?;
        let kernel = once(&self.device, &self.kernels[data_type as usize], || {
            Specialization::quantize_rows(data_type)
        })?;
        let mut arguments = [argument(&x), argument(&codes), argument(&scales), argument(&k)];
        // SAFETY: the arguments are those of zqc_quantize_rows; the caller vouches for the addresses.
        unsafe { launch(&self.device, kernel, blocks, stream, &mut arguments) }
    }
}

/// The kernel, compiled and loaded at the first call.
pub(crate) fn once<'a>(
    device: &Device,
    cell: &'a OnceLock<Arc<Kernel>>,
    name: impl FnOnce() -> Specialization,
) -> Result<&'a Arc<Kernel>, Error> {
    if let Some(kernel) = cell.get() {
        return Ok(kernel);
    }
    let kernel = device.kernel(name())?;
    Ok(cell.get_or_init(|| kernel))
}

/// Launches so many blocks; none are no work.
///
/// # Safety
/// As [`Kernel::launch`].
pub(crate) unsafe fn launch(
    device: &Device,
    kernel: &Kernel,
    blocks: u32,
    stream: CUstream,
    arguments: &mut [*mut c_void],
) -> Result<(), Error> {
    if blocks == 0 {
        return Ok(());
    }
    let _current = device.make_current()?;
    // SAFETY: the caller's promise.
    unsafe { kernel.launch(blocks, stream, arguments) }
}

/// A number of blocks, of which a launch has fewer than 2^31.
pub(crate) fn count(what: &'static str, number: usize) -> Result<u32, Error> {
    dimension(what, number).map(|number| number as u32)
}

/// A dimension as the kernels have it.
pub(crate) fn dimension(what: &'static str, actual: usize) -> Result<i32, Error> {
    // Kernels round dimensions up to their tiles.
    const LARGEST: i32 = i32::MAX - 1024;
    let too_large = || Error::Argument {
        what,
        actual: i64::try_from(actual).unwrap_or(i64::MAX),
        reason: "kernels count in 32 bits",
    };
    i32::try_from(actual).ok().filter(|&actual| actual <= LARGEST).ok_or_else(too_large)
}
