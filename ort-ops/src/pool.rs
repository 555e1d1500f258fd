//! The threads of the session, for the kernels.

use std::sync::{LazyLock, Mutex};
use std::thread::available_parallelism;

use zqc_linear::Pool;

use crate::context::Context;
use crate::error::OpError;

/// The threads of the session that a kernel runs in. The library has none of its own: a host that uses several libraries
/// does not get more threads than it asked for, and the library can be unloaded.
pub(crate) struct SessionPool<'a> {
    context: &'a Context<'a>,
    /// What went wrong in a task, the first time.
    error: Mutex<Option<OpError>>,
}

// SAFETY: ONNX Runtime's thread pool may be used from any thread while the run that the context belongs to lasts, which it
// does as long as the pool is borrowed.
unsafe impl Sync for SessionPool<'_> {}

impl<'a> SessionPool<'a> {
    pub(crate) fn new(context: &'a Context<'a>) -> Self {
        Self { context, error: Mutex::default() }
    }

    /// The first error of any task.
    pub(crate) fn end(self) -> Result<(), OpError> {
        self.error.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).map_or(Ok(()), Err)
    }
}

impl Pool for SessionPool<'_> {
    /// At most this many: ONNX Runtime does not say how many threads a session has.
    fn threads(&self) -> usize {
        // To find out, the system's files are read.
        static THREADS: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));
        *THREADS
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if tasks == 1 {
            return task(0);
        }
        if let Err(error) = self.context.parallel(tasks, task) {
            let mut first = self.error.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            first.get_or_insert(error);
        }
    }
}
