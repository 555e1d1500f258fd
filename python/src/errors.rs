//! Exceptions, one for each exit code of the command line.

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::{PyErr, PyResult, create_exception};
use zqc::Error;

create_exception!(zqc, UsageError, PyValueError, "Arguments that are wrong, or do not go together.");
create_exception!(zqc, InputError, PyValueError, "A model or data that cannot be used.");
create_exception!(zqc, OutputError, PyOSError, "The output cannot be written.");
create_exception!(zqc, InternalError, PyRuntimeError, "A fault of zqc.");

/// The exception for an error, with the text that the command line prints.
pub fn raise<T>(error: Error) -> PyResult<T> {
    let text = error.to_string();
    Err(match error.exit_code() {
        2 => UsageError::new_err(text),
        3 => InputError::new_err(text),
        4 => OutputError::new_err(text),
        _ => InternalError::new_err(text),
    })
}

/// The exception for a panic with this message.
pub fn fault(message: &str) -> PyErr {
    InternalError::new_err(format!("internal fault, please report it: {message}"))
}
