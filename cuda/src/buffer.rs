//! Device memory.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaContext, result};

use crate::capture::OutsideCapture;
use crate::context::CurrentContext;
use crate::device::Device;
use crate::error::{Action, Error};

/// An allocation in device memory. Dropping it frees it, once the device has finished the work queued before. Both can be done while
/// a stream is captured.
#[derive(Debug)]
pub(crate) struct Buffer {
    context: Arc<CudaContext>,
    address: CUdeviceptr,
}

impl Buffer {
    /// Uninitialized memory. The context must be current.
    pub fn new(device: &Device, bytes: usize) -> Result<Self, Error> {
        let _outside = OutsideCapture::new()?;
        // SAFETY: the size is not 0, and nothing reads the memory before a kernel or a copy has written it.
        let address = unsafe { result::malloc_sync(bytes.max(1)) }.during("allocating device memory")?;
        Ok(Self { context: device.context().clone(), address })
    }

    /// Memory with a copy of `bytes`. The context must be current.
    pub fn copied_from(device: &Device, bytes: &[u8]) -> Result<Self, Error> {
        let _outside = OutsideCapture::new()?;
        let buffer = Self::new(device, bytes.len())?;
        if !bytes.is_empty() {
            // SAFETY: the memory is as long as the bytes.
            unsafe { result::memcpy_htod_sync(buffer.address, bytes) }
                .during("copying weights to the device")?;
        }
        Ok(buffer)
    }

    pub fn address(&self) -> CUdeviceptr {
        self.address
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let _current = CurrentContext::new(&self.context);
        let _outside = OutsideCapture::new();
        // SAFETY: the memory was allocated by us and is freed once.
        self.context.record_err(unsafe { result::free_sync(self.address) });
    }
}
