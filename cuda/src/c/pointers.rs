//! Pointers that cross the interface.

use std::ffi::{CStr, c_char};

use super::status::{Failure, invalid, status};

/// # Safety
/// The pointer is null or to a value that lives on.
pub(super) unsafe fn borrowed<'a, T>(what: &str, pointer: *const T) -> Result<&'a T, Failure> {
    // SAFETY: the caller vouches for it.
    unsafe { pointer.as_ref() }.ok_or_else(|| invalid(format!("{what} is null")))
}

/// # Safety
/// The pointer is null or to memory for a value.
pub(super) unsafe fn give<T>(
    what: &str,
    place: *mut T,
    value: impl FnOnce() -> Result<T, Failure>,
) -> Result<(), Failure> {
    if place.is_null() {
        return Err(invalid(format!("the place for {what} is null")));
    }
    let value = value()?;
    // SAFETY: the caller vouches for the place.
    unsafe { place.write(value) };
    Ok(())
}

/// # Safety
/// The pointer is null or to a text that ends in a NUL byte.
pub(super) unsafe fn text<'a>(what: &str, pointer: *const c_char) -> Result<&'a str, Failure> {
    if pointer.is_null() {
        return Err(invalid(format!("{what} is null")));
    }
    // SAFETY: the caller vouches for it.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| invalid(format!("{what} is not UTF-8")))
}

/// # Safety
/// The pointer is null, or was given by [`boxed`] for the same type and is dropped once.
pub(super) unsafe fn drop_boxed<T>(pointer: *mut T) {
    status(|| {
        if !pointer.is_null() {
            // SAFETY: the caller vouches for it.
            drop(unsafe { Box::from_raw(pointer) });
        }
        Ok(())
    });
}

pub(super) fn boxed<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}
