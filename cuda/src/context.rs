//! The context of a device, made current for a call.

use cudarc::driver::{CudaContext, result, sys};

use crate::error::{Action, Error};

/// A context that is current on this thread; when this is dropped, the previous one is current again.
pub(crate) struct CurrentContext {
    previous: Option<sys::CUcontext>,
}

impl CurrentContext {
    pub fn new(context: &CudaContext) -> Result<Self, Error> {
        let previous = result::ctx::get_current().during("asking for the current context")?;
        context.bind_to_thread().during("making the context current")?;
        Ok(Self { previous: previous.filter(|&previous| previous != context.cu_ctx()) })
    }
}

impl Drop for CurrentContext {
    fn drop(&mut self) {
        if let Some(previous) = self.previous {
            // SAFETY: the context was current on this thread. If it has been destroyed since, ours stays current.
            let _ = unsafe { result::ctx::set_current(previous) };
        }
    }
}
