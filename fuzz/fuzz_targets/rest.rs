//! Bodies and answers of the HTTP APIs: whatever is read is written so that it reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../iris-protocol/tests/properties/mod.rs"]
#[allow(dead_code, reason = "the other target uses the rest")]
mod properties;

fuzz_target!(|json: &[u8]| properties::rest(json));
