//! Panics: a library may panic on what it is given, and its caller make an error of that, so that none is printed before it
//! is known to be a fault of ours.

use std::sync::{Mutex, PoisonError};

static LAST: Mutex<String> = Mutex::new(String::new());

/// Keeps panics off standard error; the result gives message and place of the last one.
pub fn collect() -> impl Fn() -> String {
    std::panic::set_hook(Box::new(|panic| {
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
    }));
    || LAST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
