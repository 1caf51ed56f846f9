//! Certificates, signatures, chunks and records: nothing holds but what was signed and sealed.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../iris-crypto/tests/properties/mod.rs"]
#[allow(dead_code, reason = "the other target uses the rest")]
mod properties;

fuzz_target!(|bytes: &[u8]| {
    properties::certificate(bytes);
    properties::sealed(bytes);
});
