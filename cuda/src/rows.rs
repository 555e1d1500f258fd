//! Kernels on matrices that lie row by row, as ONNX has them: quantization of activations.

use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::{CUdeviceptr, CUstream};

use crate::device::Device;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::launch::{argument, block_count, dimension, launch};
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
        let blocks = block_count("the tokens", tokens)?;
        let k = dimension("the columns", k)?;
        let kernel = self
            .device
            .kernel_once(&self.kernels[data_type as usize], || Specialization::quantize_rows(data_type))?;
        let mut arguments = [argument(&x), argument(&codes), argument(&scales), argument(&k)];
        // SAFETY: the arguments are those of zqc_quantize_rows; the caller vouches for the addresses.
        unsafe { launch(&self.device, kernel, blocks, stream, &mut arguments) }
    }
}
