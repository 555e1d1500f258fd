//! The command line of zqc.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: zqc::cli::OrExit = zqc::cli::OrExit;

fn main() -> ExitCode {
    zqc::cli::main(std::env::args_os()).into()
}
