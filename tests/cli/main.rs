//! The command line as scripts see it: exit codes, messages, and that a failed run leaves nothing behind.

mod arguments;
mod backends;
mod bad_data;
mod bad_models;
mod bench;
mod calibration;
mod coverage;
mod defaults;
#[cfg(unix)]
mod faults;
mod folders;
mod formats;
mod kills;
mod models;
mod odd_models;
mod packages;
#[cfg(unix)]
mod places;
mod results;
mod resume;
#[path = "../support/mod.rs"]
mod support;
mod synthesized_inputs;
mod tuned;
mod usage;
