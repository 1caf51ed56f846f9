//! What a model server answers becomes clean pieces or errors; what it is sent controls nothing.

#![no_main]

use iris_node::backend::openai::properties;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (which, rest) = bytes.split_at(bytes.len().min(1));
    match which.first().map(|which| which % 3) {
        Some(0) => properties::stream(rest),
        Some(1) => properties::reply(rest),
        Some(_) => properties::body(rest),
        None => {}
    }
});
