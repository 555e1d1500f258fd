//! Calls into libraries that report most faults of their input and panic on some.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The result of `call`, or what it said when it panicked.
pub(crate) fn catch_panic<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("it panicked: {}", message.unwrap_or("no message"))
    })
}

#[cfg(test)]
mod tests {
    use super::catch_panic;

    #[test]
    fn a_panic_is_an_error() {
        assert_eq!(catch_panic(|| 7), Ok(7));
        assert_eq!(catch_panic(|| panic!("no {}", "way")), Err::<(), _>("it panicked: no way".to_string()));
    }
}
