//! What a coordinator answers: streams by the letter of the standard, refusals by
//! their status, rosters and checkpoints by their proofs.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    iris_client::properties::events(bytes);
    iris_client::properties::refusal(bytes);
    iris_client::properties::published(bytes);
});
