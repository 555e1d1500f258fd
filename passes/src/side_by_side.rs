//! Samples run at the same time, each on a thread of its own.

use std::ops::Range;
use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

use crate::backpropagate::Inputs;
use crate::pass::PassError;

/// Tokens that are run at the same time: a back end gains little from more than a few threads inside one sample, and logits take
/// memory.
const TOKENS: usize = 4096;

/// How many samples like this one are run at the same time.
pub(crate) fn at_once(sample: &Inputs) -> usize {
    (TOKENS / tokens(sample)).clamp(1, rayon::current_num_threads())
}

/// The most tokens that a sample can have: the elements of its longest input.
pub(crate) fn tokens(sample: &Inputs) -> usize {
    sample.iter().map(|(_, array)| array.data.len()).max().unwrap_or(1).max(1)
}

/// Calls `run` with each of `samples`, on a thread each; the results in their order.
///
/// # Errors
/// The first of `run`, in that order.
pub(crate) fn side_by_side<R: Send>(
    samples: Range<usize>,
    run: impl Fn(usize) -> Result<R, PassError> + Sync,
) -> Result<Vec<R>, PassError> {
    let run = &run;
    thread::scope(|scope| {
        let threads: Vec<_> = samples.map(|at| scope.spawn(move || run(at))).collect();
        let join = |thread: ScopedJoinHandle<_>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        threads.into_iter().map(join).collect()
    })
}
