//! Names, ids, keys, hashes and addresses: any text is refused or has one meaning.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../iris-crypto/tests/properties/mod.rs"]
#[allow(dead_code, reason = "the other target uses the rest")]
mod crypto;
#[path = "../../iris-core/tests/names/sound.rs"]
mod names;
#[path = "../../iris-protocol/tests/properties/mod.rs"]
#[allow(dead_code, reason = "the other target uses the rest")]
mod protocol;

fuzz_target!(|text: &str| {
    names::is_sound(text);
    protocol::text(text);
    crypto::text(text);
    iris_client::properties::address(text);
    iris_node::backend::openai::properties::address(text);
    iris_node::agent::properties::address(text);
});
