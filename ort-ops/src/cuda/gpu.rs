//! A device and its memory.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, Weak};

use zqc_cuda::cudarc::driver::result;
use zqc_cuda::cudarc::driver::sys::CUstream;
use zqc_cuda::{Device, RowQuantizer, Workspace};

use crate::context::Context;
use crate::error::OpError;

/// A device with what its nodes share, as long as there are any.
pub(super) struct Gpu {
    pub workspace: Workspace,
    pub quantizer: RowQuantizer,
}

impl Gpu {
    /// The device of this number.
    pub fn of(ordinal: usize) -> Result<Arc<Self>, OpError> {
        static GPUS: LazyLock<Mutex<HashMap<usize, Weak<Gpu>>>> = LazyLock::new(Mutex::default);
        let mut gpus = GPUS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = gpus.get(&ordinal).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let device = Device::new(ordinal)?;
        let gpu =
            Arc::new(Self { workspace: Workspace::new(&device), quantizer: RowQuantizer::new(&device) });
        gpus.insert(ordinal, Arc::downgrade(&gpu));
        Ok(gpu)
    }

    pub fn device(&self) -> &Device {
        self.workspace.device()
    }
}

/// The stream of a run.
pub(super) fn stream(context: &Context) -> Result<CUstream, OpError> {
    Ok(context.stream()?.cast())
}

/// Copies device memory to the host, and waits for it.
///
/// # Safety
/// The memory is that of a tensor of the run that `stream` is of, as long as `bytes`.
pub(super) unsafe fn read(address: u64, bytes: &mut [u8], stream: CUstream) -> Result<(), OpError> {
    if bytes.is_empty() {
        return Ok(());
    }
    // SAFETY: both have so many bytes, and the stream has copied them before they are used.
    let copied = unsafe {
        result::memcpy_dtoh_async(bytes, address, stream).and_then(|()| result::stream::synchronize(stream))
    };
    copied.map_err(refused)
}

/// Copies bytes of the host to device memory, and waits for it.
///
/// # Safety
/// As [`read`].
pub(super) unsafe fn write(bytes: &[u8], address: u64, stream: CUstream) -> Result<(), OpError> {
    if bytes.is_empty() {
        return Ok(());
    }
    // SAFETY: both have so many bytes, and the stream has copied them before they are let go.
    let copied = unsafe {
        result::memcpy_htod_async(address, bytes, stream).and_then(|()| result::stream::synchronize(stream))
    };
    copied.map_err(refused)
}

fn refused(source: zqc_cuda::cudarc::driver::DriverError) -> OpError {
    zqc_cuda::Error::Driver { action: "copying between the host and the device", source }.into()
}
