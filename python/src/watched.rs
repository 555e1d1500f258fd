//! A job on a thread of its own, while the thread of the caller tells how it goes and hears Ctrl-C.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;
use rayon::ThreadPoolBuilder;
use zqc::passes::Observer;
use zqc::runtime::useful_threads;
use zqc::{Error, Events};

use crate::LAST_PANIC;
use crate::errors::{fault, raise};

/// So often Python looks for signals.
const INTERVAL: Duration = Duration::from_millis(100);
/// The stack that a program's first thread has on most systems, where the command line runs its jobs.
const STACK: usize = 8 << 20;

/// Something has been done: of which step, how much, and out of how much; 0 where that is not known.
type Progress = (String, usize, usize);

/// Tells the caller how the job goes, and the job whether to end early.
pub struct Reporter<'a> {
    step: String,
    progress: Sender<Progress>,
    stopped: &'a AtomicBool,
}

impl Reporter<'_> {
    /// `done` of the `count` parts of a step are done.
    pub fn tell(&mut self, step: &str, done: usize, count: usize) {
        let _ = self.progress.send((step.to_string(), done, count)); // the caller may have left
    }
}

impl Observer for Reporter<'_> {
    fn stage_started(&mut self, index: usize, count: usize, _layers: usize) {
        self.tell("solving", index, count);
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

impl Events for Reporter<'_> {
    fn step(&mut self, what: &str) {
        self.step = what.to_string();
        self.tell(what, 0, 0);
    }

    fn step_advanced(&mut self, done: usize, count: usize) {
        let step = self.step.clone();
        self.tell(&step, done, count);
    }
}

/// Runs `job` on `threads` threads, by default one a core, without holding Python's lock. The caller's thread calls `progress` and
/// looks for signals; an exception of either ends the job early, and is raised.
pub fn watched<R: Send>(
    py: Python<'_>,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
    job: impl FnOnce(&mut Reporter) -> Result<R, Error> + Send,
) -> PyResult<R> {
    let (sender, receiver) = channel::<Progress>();
    let stopped = &AtomicBool::new(false);
    let mut reporter = Reporter { step: String::new(), progress: sender, stopped };
    let run = || catch_unwind(AssertUnwindSafe(|| on_threads(threads, move || job(&mut reporter))));
    py.detach(move || {
        thread::scope(|scope| {
            let worker = thread::Builder::new().name("zqc".to_string()).stack_size(STACK);
            let worker = worker.spawn_scoped(scope, run)?;
            let mut heard = Ok(());
            loop {
                let event = match receiver.recv_timeout(INTERVAL) {
                    Ok(event) => Some(event),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                if heard.is_ok() {
                    heard = Python::attach(|py| {
                        py.check_signals()?;
                        match (&progress, event) {
                            (Some(progress), Some(event)) => progress.call1(py, event).map(drop),
                            _ => Ok(()),
                        }
                    });
                    stopped.store(heard.is_err(), Ordering::Relaxed);
                }
            }
            let result = worker.join();
            heard?;
            match result {
                Ok(Ok(result)) => result.or_else(raise),
                Ok(Err(_)) | Err(_) => Err(fault(&LAST_PANIC.get().map(|last| last()).unwrap_or_default())),
            }
        })
    })
}

/// Runs `job` with this many threads for what it does in parallel.
fn on_threads<R: Send>(
    threads: Option<usize>,
    job: impl FnOnce() -> Result<R, Error> + Send,
) -> Result<R, Error> {
    let Some(threads) = threads else { return job() };
    let pool = ThreadPoolBuilder::new().num_threads(useful_threads(threads)).stack_size(STACK).build();
    pool.map_err(|error| Error::Usage(format!("--threads {threads}: {error}")))?.install(job)
}
