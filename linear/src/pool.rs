//! Who runs the parts of a product.

/// A pool of threads that is there already: the kernels have none of their own.
pub trait Pool: Sync {
    /// Threads that [`Pool::run`] spreads its tasks over.
    fn threads(&self) -> usize;

    /// Runs `task` for every number below `tasks`, in any order, and returns when all have run.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// No pool: the calling thread does everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Pool for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}
