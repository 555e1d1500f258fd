//! The command line as scripts see it: exit codes, messages, and that a failed run leaves nothing behind.

mod bad_data;
mod bad_models;
mod bench;
mod coverage;
mod defaults;
#[cfg(unix)]
mod faults;
mod formats;
mod kills;
mod models;
mod packages;
mod results;
mod resume;
#[path = "../support/mod.rs"]
mod support;
mod usage;
