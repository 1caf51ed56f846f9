//! No headers make a stranger local or known.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|lines: &[u8]| iris_coordinator::http::properties::headers(lines));
