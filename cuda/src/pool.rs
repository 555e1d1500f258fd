//! Scratches of a model by the stream that uses them, for calls that are given none.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use cudarc::driver::sys::CUstream;

use crate::scratch::{LARGEST_CAPACITY, Scratch};

/// Scratches by stream. Calls on different streams do not wait for each other. Those on one stream take its scratch one
/// after the other, as the stream runs what they launch: a second scratch would be allocated at a moment that nobody can
/// foresee.
#[derive(Debug)]
pub(crate) struct Pool<S = Scratch>(Mutex<HashMap<StreamKey, Arc<Mutex<OfStream<S>>>>>);

/// A stream, and the thread where the handle means another stream on each.
type StreamKey = (usize, Option<ThreadId>);

/// The scratches of a stream.
#[derive(Debug)]
struct OfStream<S> {
    /// The one in use, and the tokens that it has room for.
    current: Option<(usize, S)>,
    /// Scratches that have become too small, kept because a captured graph may hold their addresses.
    outgrown: Vec<S>,
}

/// The handle of the default stream that every thread has for itself.
const PER_THREAD_STREAM: usize = 2;

/// The tokens that the first scratch of a stream has room for.
const SMALLEST: usize = 64;

impl<S> Pool<S> {
    /// Calls `work` with a scratch for `tokens` tokens that no other call uses until it returns, and no other stream ever.
    /// Where the stream has none that is large enough, `allocate` makes one of the capacity that it is given.
    ///
    /// # Errors
    /// The errors of `allocate` and `work`.
    pub fn with<T, E>(
        &self,
        stream: CUstream,
        tokens: usize,
        allocate: impl FnOnce(usize) -> Result<S, E>,
        work: impl FnOnce(&mut S) -> Result<T, E>,
    ) -> Result<T, E> {
        let of_stream = self.of_stream(stream);
        let OfStream { current, outgrown } = &mut *lock(&of_stream);
        let (_, scratch) = match current {
            Some(current) if current.0 >= tokens => current,
            current => {
                let capacity = capacity_for(tokens);
                let scratch = allocate(capacity)?;
                outgrown.extend(current.take().map(|(_, scratch)| scratch));
                current.insert((capacity, scratch))
            }
        };
        work(scratch)
    }

    fn of_stream(&self, stream: CUstream) -> Arc<Mutex<OfStream<S>>> {
        let handle = stream.cast::<c_void>() as usize;
        let key = (handle, (handle == PER_THREAD_STREAM).then(|| thread::current().id()));
        lock(&self.0).entry(key).or_default().clone()
    }
}

// Derived, they would ask the same of the scratches.
impl<S> Default for Pool<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S> Default for OfStream<S> {
    fn default() -> Self {
        Self { current: None, outgrown: Vec::new() }
    }
}

/// A power of two, so that tokens that grow one by one allocate a few times only.
fn capacity_for(tokens: usize) -> usize {
    let power = tokens.max(SMALLEST).checked_next_power_of_two().unwrap_or(tokens);
    power.min(LARGEST_CAPACITY).max(tokens)
}

/// A call that panicked leaves nothing half done: the next quantizes anew.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// A scratch that knows its number.
    type Numbered = usize;

    fn stream(handle: usize) -> CUstream {
        handle as CUstream
    }

    fn number(pool: &Pool<Numbered>, handle: usize, tokens: usize, next: &AtomicUsize) -> Numbered {
        let allocate = |_| Ok::<_, Infallible>(next.fetch_add(1, Ordering::SeqCst));
        let Ok(number) = pool.with(stream(handle), tokens, allocate, |scratch| Ok(*scratch));
        number
    }

    #[test]
    fn a_stream_keeps_its_scratch_until_it_is_too_small() {
        let (pool, next) = (Pool::default(), AtomicUsize::new(0));
        assert_eq!([1, 64, 0].map(|tokens| number(&pool, 16, tokens, &next)), [0, 0, 0]);
        assert_eq!([65, 128, 1].map(|tokens| number(&pool, 16, tokens, &next)), [1, 1, 1]);
        assert_eq!([1, 65].map(|tokens| number(&pool, 32, tokens, &next)), [2, 3]);
    }

    #[test]
    fn what_has_become_too_small_stays_allocated() {
        struct Dropped<'a>(&'a Cell<usize>);
        impl Drop for Dropped<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let dropped = Cell::new(0);
        let pool = Pool::default();
        for tokens in [1, 100, 1000] {
            let allocate = |_| Ok::<_, Infallible>(Dropped(&dropped));
            let Ok(()) = pool.with(stream(16), tokens, allocate, |_| Ok(()));
        }
        assert_eq!(dropped.get(), 0);
        drop(pool);
        assert_eq!(dropped.get(), 3);
    }

    #[test]
    fn capacities() {
        let pool = Pool::default();
        for (tokens, expected) in [
            (0, 64),
            (64, 64),
            (65, 128),
            (4097, 8192),
            (1 << 30, 1 << 30),
            ((1 << 30) + 1, LARGEST_CAPACITY),
            (LARGEST_CAPACITY, LARGEST_CAPACITY),
            // Too many, which the scratch says.
            (LARGEST_CAPACITY + 1, LARGEST_CAPACITY + 1),
            (usize::MAX, usize::MAX),
        ] {
            let Ok(()) = Pool::default().with(
                stream(16),
                tokens,
                |capacity| {
                    assert_eq!(capacity, expected, "{tokens}");
                    Ok::<_, Infallible>(())
                },
                |()| Ok(()),
            );
        }
        let failed = pool.with(stream(16), 1, |_| Err("no memory"), |&mut number: &mut usize| Ok(number));
        assert_eq!(failed, Err("no memory"));
        assert_eq!(pool.with(stream(16), 1, |_| Ok::<_, &str>(7), |&mut number| Ok(number)), Ok(7));
    }

    /// The first call on a stream may take long; it holds up no other stream.
    #[test]
    fn streams_do_not_wait_for_each_other() {
        const LONG: Duration = Duration::from_secs(30);
        let (pool, next) = (Pool::default(), AtomicUsize::new(0));
        for (handle, other) in [(16, 32), (0, 16)] {
            let (inside, is_inside) = mpsc::channel();
            let (done, is_done) = mpsc::channel();
            thread::scope(|scope| {
                let (pool, next) = (&pool, &next);
                scope.spawn(move || {
                    let allocate = |_| Ok::<_, Infallible>(next.fetch_add(1, Ordering::SeqCst));
                    pool.with(stream(handle), 1, allocate, |_| {
                        inside.send(()).unwrap();
                        is_done.recv_timeout(LONG).expect("the other stream waits for this one");
                        Ok(())
                    })
                });
                is_inside.recv_timeout(LONG).unwrap();
                number(pool, other, 1, next);
                number(pool, other, 1000, next);
                done.send(()).unwrap();
            });
        }
    }

    /// As many threads as there are on one stream and on a few: a scratch has one user at a time, of one stream.
    #[test]
    fn no_two_calls_have_one_scratch() {
        struct Exclusive {
            stream: usize,
            in_use: AtomicBool,
        }
        let (pool, allocated) = (Pool::default(), AtomicUsize::new(0));
        thread::scope(|scope| {
            for worker in 0..8 {
                let (pool, allocated) = (&pool, &allocated);
                scope.spawn(move || {
                    for call in 0..2000 {
                        let handle = 16 * (1 + (worker + call) % 3);
                        let allocate = |_| {
                            allocated.fetch_add(1, Ordering::SeqCst);
                            Ok::<_, Infallible>(Exclusive { stream: handle, in_use: AtomicBool::new(false) })
                        };
                        let Ok(()) = pool.with(stream(handle), 1, allocate, |scratch| {
                            assert_eq!(scratch.stream, handle);
                            assert!(!scratch.in_use.swap(true, Ordering::SeqCst));
                            thread::yield_now();
                            assert!(scratch.in_use.swap(false, Ordering::SeqCst));
                            Ok(())
                        });
                    }
                });
            }
        });
        assert_eq!(allocated.into_inner(), 3, "one for each stream");
    }

    #[test]
    fn the_default_stream_of_a_thread_is_its_own() {
        let (pool, next) = (Pool::default(), AtomicUsize::new(0));
        let on_a_thread =
            |handle| thread::scope(|scope| scope.spawn(|| number(&pool, handle, 1, &next)).join());
        let [mine, others] =
            [number(&pool, PER_THREAD_STREAM, 1, &next), on_a_thread(PER_THREAD_STREAM).unwrap()];
        assert_ne!(mine, others);
        // The legacy default stream is one for all threads.
        assert_eq!(number(&pool, 0, 1, &next), on_a_thread(0).unwrap());
    }

    #[test]
    fn a_call_that_fails_or_panics_leaves_the_scratch() {
        let (pool, next) = (Pool::default(), AtomicUsize::new(0));
        let first = number(&pool, 16, 1, &next);
        let failed = pool.with(stream(16), 1, |_| unreachable!(), |_| Err::<(), _>("refused"));
        assert_eq!(failed, Err("refused"));
        let panicking =
            || pool.with(stream(16), 1, |_| unreachable!(), |_| -> Result<(), Infallible> { panic!() });
        assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
        assert_eq!(number(&pool, 16, 1, &next), first);
    }
}
