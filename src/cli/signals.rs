//! Signals that end the process: temporary files go first.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use zqc::ir::onnx::remove_temporaries;

/// From now on SIGINT and SIGTERM end the process as they do by default, but without temporary files left behind. A file
/// that grows over the limit of the shell gives an error, not a signal.
pub(super) fn handle() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    std::thread::Builder::new().name("signals".to_string()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            remove_temporaries();
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    })?;
    Ok(())
}
