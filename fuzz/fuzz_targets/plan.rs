//! Plans and questions that are to be divided: what is not refused ends exactly once.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../iris-core/tests/properties/mod.rs"]
mod properties;

fuzz_target!(|bytes: &[u8]| {
    properties::plan(bytes);
    properties::division(bytes);
});
