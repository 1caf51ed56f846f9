//! What a coordinator passes on of a sealed answer.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (Vec<u8>, Vec<u8>)| {
    iris_coordinator::http::properties::records(&parts.0, &parts.1);
});
