//! Checkpoints, entries, tiles and proofs of the public log: nothing holds but what is in it.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../iris-crypto/tests/properties/mod.rs"]
#[allow(dead_code, reason = "the other target uses the rest")]
mod properties;

fuzz_target!(|bytes: &[u8]| properties::log(bytes));
