//! What `--verbose` says: the events of the compiler, a line each.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Writes what zqc logs to standard error, without time: the lines of two runs can be compared.
pub(super) fn to_standard_error() {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_level(false)
        .with_target(false);
    let ours = Targets::new().with_target("zqc", LevelFilter::DEBUG);
    // Where another program that has zqc in it keeps a log of its own, that one hears.
    let _ = tracing_subscriber::registry().with(lines).with(ours).try_init();
}
