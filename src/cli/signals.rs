//! Signals that end the process.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use crate::ir::onnx::remove_temporaries;
use signal_hook::consts::{SIGBUS, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::BAD_INPUT;
use super::end::end;

const FILE_GONE: &[u8] =
    b"error: the model, or its external data, cannot be read any more: a file was shortened, or its \
    device is gone; run again when it is back\n";

/// Where the compilation that runs keeps its state.
static STATE: OnceLock<PathBuf> = OnceLock::new();

/// From now on a signal that ends the process says that there is state in `folder`, once there is.
pub(super) fn tell_of_state(folder: PathBuf) {
    let _ = STATE.set(folder); // a process compiles one model
}

/// From now on SIGINT and SIGTERM end the process as they do by default, but without temporary files left behind. A file
/// that grows over the limit of the shell gives an error, not a signal; one that can be read no more gives a message.
pub(super) fn handle() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    // SAFETY: the action is async-signal-safe, as all that `end` does is.
    unsafe { signal_hook::low_level::register(SIGBUS, || end(FILE_GONE, BAD_INPUT))? };
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    std::thread::Builder::new().name("signals".to_string()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            remove_temporaries();
            if let Some(state) = STATE.get().filter(|state| state.is_dir()) {
                say!(
                    "stopped; what is solved so far is in {state:?}, and the same command goes on from there"
                );
            }
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    })?;
    Ok(())
}
