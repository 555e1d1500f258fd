//! The end of the process where nothing can be relied on: amid a signal, or without memory.

use std::sync::atomic::{AtomicBool, Ordering};

/// Writes a message to standard error and ends the process at once. Takes no lock and no memory, and calls nothing but
/// `write`, `_exit` and `pause`, so it may be called from a signal handler and from the allocator. Temporary folders
/// stay; the next run that writes to the same place removes them.
pub(super) fn end(message: &[u8], exit_code: u8) -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    if !ENDING.swap(true, Ordering::SeqCst) {
        let _ = rustix::io::write(rustix::stdio::stderr(), message); // nobody may be reading
        signal_hook::low_level::exit(exit_code.into());
    }
    // Another thread has come here first, and its message is the one to be read.
    loop {
        rustix::event::pause();
    }
}
