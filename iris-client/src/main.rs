//! The `iris` command: asks an Iris network from a terminal.

use std::process::ExitCode;

fn main() -> ExitCode {
    iris_client::cli::run()
}
