//! The peak memory of this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often private memory is looked at: the system keeps no peak of it.
const INTERVAL: Duration = Duration::from_millis(20);

/// The largest resident set so far, in bytes, pages of mapped files included; `None` where the system does not say.
pub(crate) fn peak() -> Option<u64> {
    status("VmHWM:")
}

/// Looks at the private memory of the process as long as it lives.
pub(crate) struct PrivateMemory {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    peak: AtomicU64,
    ends: AtomicBool,
}

impl PrivateMemory {
    /// Begins to look.
    pub fn watch() -> Self {
        let shared = Arc::<Shared>::default();
        let in_thread = shared.clone();
        let look = move || {
            while !in_thread.ends.load(Ordering::Relaxed) {
                in_thread.look();
                thread::park_timeout(INTERVAL);
            }
        };
        // Without a thread the memory is looked at in the end only.
        let thread = thread::Builder::new().name("memory".to_string()).spawn(look).ok();
        Self { shared, thread }
    }

    /// The most that was seen, in bytes, which no file of the disk stands behind; `None` where the system does not say.
    pub fn peak(&self) -> Option<u64> {
        self.shared.look();
        Some(self.shared.peak.load(Ordering::Relaxed)).filter(|&peak| peak > 0)
    }
}

impl Shared {
    fn look(&self) {
        self.peak.fetch_max(status("RssAnon:").unwrap_or(0), Ordering::Relaxed);
    }
}

impl Drop for PrivateMemory {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join(); // it does nothing that could panic
        }
    }
}

/// A line of the process's status, in bytes.
fn status(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_gone_again_was_seen() {
        const SIZE: usize = 256 << 20;
        let memory = PrivateMemory::watch();
        let before = memory.peak().expect("Linux says it");
        let block = std::hint::black_box(vec![1u8; SIZE]);
        thread::sleep(5 * INTERVAL);
        drop(block);
        let after = memory.peak().unwrap();
        assert!(after >= before + SIZE as u64 / 2, "{before} {after}");
        assert!(peak().unwrap() >= after);
    }
}
