//! What real processes do to each other: they are killed, stopped, cut off, and find no disk and
//! no files left.
//!
//! The short form takes seconds. `IRIS_TEST_LONG=1` makes it a hundred kills and a soak of ten
//! minutes, and prints what it measured. What a machine cannot do is skipped, and said so.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

#[path = "../live/mod.rs"]
mod live;

mod books;
mod descriptors;
mod disk;
mod half_open;
mod kill;
mod load;
mod model_server;
mod netcut;
mod network;
mod process;
mod roles;
mod soak;

use std::io::Write;
use std::time::Duration;

/// Held by tests that measure the processor, and by those that press it.
static QUIET: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How long a network that was hurt may take until it serves again.
const HEALED: Duration = Duration::from_secs(30);

fn is_long() -> bool {
    std::env::var_os("IRIS_TEST_LONG").is_some()
}

/// Says that a test does nothing here, so that nobody takes its passing for more.
#[expect(clippy::explicit_write, reason = "what is printed by macros is kept back by the harness")]
fn skip(test: &str, lacks: &str) {
    writeln!(std::io::stderr(), "\n!!! SKIPPED: {test}. {lacks}").unwrap();
}
