//! Access and refresh tokens of sessions: nothing is good but what was issued.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../iris-crypto/tests/properties/tokens.rs"]
#[allow(dead_code, reason = "the other target uses the rest")]
mod tokens;

fuzz_target!(|bytes: &[u8]| tokens::tokens(bytes));
