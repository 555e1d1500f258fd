//! Calls of the driver that it refuses while a stream is captured.

use std::marker::PhantomData;

use cudarc::driver::sys::{CUstreamCaptureMode, cuThreadExchangeStreamCaptureMode};

use crate::error::{Action, Error};

/// While this lives, the calling thread may allocate, free and load although a stream is being captured, by it or by another
/// thread. None of that becomes a part of the graph: what is allocated is there before the graph runs.
pub(crate) struct OutsideCapture {
    previous: CUstreamCaptureMode,
    /// It is the thread that has the mode: this stays on it.
    _of_thread: PhantomData<*const ()>,
}

impl OutsideCapture {
    pub fn new() -> Result<Self, Error> {
        let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        exchange(&mut mode)?;
        Ok(Self { previous: mode, _of_thread: PhantomData })
    }
}

impl Drop for OutsideCapture {
    fn drop(&mut self) {
        // It succeeded with the other mode.
        let _ = exchange(&mut self.previous);
    }
}

/// Gives the thread a mode, and the variable the one that it had.
fn exchange(mode: &mut CUstreamCaptureMode) -> Result<(), Error> {
    // SAFETY: the pointer is to a mode.
    unsafe { cuThreadExchangeStreamCaptureMode(mode) }.result().during("setting the thread's capture mode")
}
