//! What functions return, and `zqc_last_error`.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::Error;

const OK: u32 = 0;
const INVALID_ARGUMENT: u32 = 1;
const BAD_PACKAGE: u32 = 2;
const UNAVAILABLE: u32 = 3;
const DRIVER_ERROR: u32 = 4;
const COMPILE_ERROR: u32 = 5;
const INTERNAL_ERROR: u32 = 6;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// A status with its message.
pub(super) struct Failure {
    pub(super) status: u32,
    pub(super) message: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            _ if error.is_unavailable() => UNAVAILABLE,
            Error::Package(_) => BAD_PACKAGE,
            Error::Driver { .. } | Error::Capturing { .. } => DRIVER_ERROR,
            Error::Compile { .. } | Error::Launch { .. } => COMPILE_ERROR,
            Error::Dispatch { .. } => INTERNAL_ERROR,
            _ => INVALID_ARGUMENT,
        };
        Self { status, message: error.to_string() }
    }
}

pub(super) fn invalid(message: impl Into<String>) -> Failure {
    Failure { status: INVALID_ARGUMENT, message: message.into() }
}

/// Runs what a function does, and keeps its message where it fails.
pub(super) fn status(body: impl FnOnce() -> Result<(), Failure>) -> u32 {
    let panicked = |_| Err(Failure { status: INTERNAL_ERROR, message: "a fault of the library".into() });
    match catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(panicked) {
        Ok(()) => OK,
        Err(Failure { status, message }) => {
            LAST_ERROR.with_borrow_mut(|last| *last = c_string(&message));
            status
        }
    }
}

pub(super) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

#[unsafe(no_mangle)]
extern "C" fn zqc_last_error() -> *const c_char {
    LAST_ERROR.with_borrow(|last| last.as_ptr())
}
