//! The command line of zqc.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
