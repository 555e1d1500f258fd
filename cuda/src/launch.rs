//! The arguments and dimensions of a launch.

use std::ffi::c_void;

use cudarc::driver::sys::CUstream;

use crate::device::Device;
use crate::error::Error;
use crate::kernel::Kernel;

/// The address of a kernel argument, which a launch only reads.
pub(crate) fn argument<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

/// Launches a grid of `clusters` clusters on the stream; 0 launch nothing.
///
/// # Safety
/// `arguments` point to values of the types that the kernel takes, in its order; the device pointers among them are valid
/// for what the kernel reads and writes until it has run; the stream is of the device.
pub(crate) unsafe fn launch(
    device: &Device,
    kernel: &Kernel,
    clusters: u32,
    stream: CUstream,
    arguments: &mut [*mut c_void],
) -> Result<(), Error> {
    if clusters == 0 {
        return Ok(());
    }
    let _current = device.make_current()?;
    // SAFETY: the context is current; the rest is the caller's promise.
    unsafe { kernel.launch(clusters, stream, arguments) }
}

/// A number of blocks, which must be below 2^31.
pub(crate) fn block_count(what: &'static str, number: usize) -> Result<u32, Error> {
    dimension(what, number).map(|number| number as u32)
}

/// A dimension as kernels take it: an `int`.
pub(crate) fn dimension(what: &'static str, actual: usize) -> Result<i32, Error> {
    // Kernels round dimensions up to multiples of their tiles, which must not overflow.
    const LARGEST: i32 = i32::MAX - 1024;
    let too_large = || Error::Argument {
        what,
        actual: i64::try_from(actual).unwrap_or(i64::MAX),
        reason: "kernels count in 32 bits",
    };
    i32::try_from(actual).ok().filter(|&actual| actual <= LARGEST).ok_or_else(too_large)
}
