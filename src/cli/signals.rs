//! Signals that end the process: temporary files go first.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use signal_hook::consts::{SIGBUS, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use zqc::ir::onnx::remove_temporaries;

use super::BAD_INPUT;

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
    // SAFETY: the signal comes to the thread that reads from a mapped file, amid a copy or a computation: no lock is held there
    // that the action takes.
    unsafe { signal_hook::low_level::register(SIGBUS, end_without_the_file)? };
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

/// Ends the process when a file that it reads was shortened, or lies on a device that is gone.
fn end_without_the_file() {
    static ENDING: AtomicBool = AtomicBool::new(false);
    while ENDING.swap(true, Ordering::SeqCst) {
        // Another thread ends the process.
        std::thread::sleep(Duration::from_secs(1));
    }
    let _ = writeln!(
        std::io::stderr(),
        "error: the model, or its external data, cannot be read any more: a file was shortened, or its device is gone; \
         run again when it is back"
    );
    remove_temporaries();
    signal_hook::low_level::exit(BAD_INPUT.into())
}
