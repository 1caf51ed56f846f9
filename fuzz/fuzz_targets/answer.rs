//! What a node answers is refused, or becomes one event or one object under our name.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| iris_protocol::openai::properties::answer(bytes));
