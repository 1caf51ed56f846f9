//! The `iris` command: asks an Iris network from a terminal.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    iris_client::cli::run()
}
