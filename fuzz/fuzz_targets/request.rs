//! A request's body is refused, or read as every other reader of it reads it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| iris_protocol::openai::properties::request(body));
