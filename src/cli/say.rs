//! Lines on standard error. Nobody may be reading them; that is no reason to stop.

/// As `eprintln!`, which panics when standard error is closed.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}
