//! Ends the process when an input takes too long or too much. The input lies in a file by then.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// No input of the corpus takes a hundredth of this.
const LONGEST: Duration = Duration::from_secs(20);

/// Milliseconds at which the input under way began, from 1; 0 between inputs.
static SINCE: AtomicU64 = AtomicU64::new(0);

/// Looks every second whether the input under way takes too long.
pub fn start(began: Instant) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let since = SINCE.load(SeqCst);
            if since != 0 && milliseconds(began) - since > LONGEST.as_millis() as u64 {
                stop("no end after 20 seconds");
            }
        }
    });
}

/// An input begins.
pub fn begin(began: Instant) {
    SINCE.store(milliseconds(began), SeqCst);
}

/// It has ended.
pub fn end() {
    SINCE.store(0, SeqCst);
}

fn milliseconds(began: Instant) -> u64 {
    began.elapsed().as_millis() as u64 + 1
}

/// Says why, and ends the process.
pub fn stop(reason: &str) {
    static STOPPING: AtomicBool = AtomicBool::new(false);
    if !STOPPING.swap(true, SeqCst) {
        let _ = writeln!(std::io::stderr(), "FOUND: {reason}; the input is the one under way, see above");
        std::process::abort();
    }
}
