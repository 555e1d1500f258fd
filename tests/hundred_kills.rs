//! Runs killed at a hundred moments, spread out, go on and end in the same bytes. That takes minutes, so it is no part of the suite:
//! `cargo test --release --test hundred_kills -- --nocapture`.
#![allow(dead_code)] // what the command line's other tests use

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/kills.rs"]
mod kills;
mod support;

#[test]
fn a_hundred_kills() {
    assert!(kills::kill_and_resume(100) >= 40);
}
