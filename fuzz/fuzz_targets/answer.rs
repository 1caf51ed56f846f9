//! What a node answers is refused, or becomes one event or one object under our name; what it says
//! of tokens is refused, or is what a model can find.

#![no_main]

use iris_protocol::openai::properties;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    properties::answer(bytes);
    properties::scores(bytes);
});
