//! What callers ask of the engine is refused or honoured; templates of model files end.

#![no_main]

use iris_node::backend::engine::properties;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut rest = text.chars();
    match rest.next() {
        Some('b') => properties::request(rest.as_str().as_bytes()),
        Some('t') => properties::template(rest.as_str()),
        Some('p') => properties::prompt(rest.as_str()),
        _ => {}
    }
});
