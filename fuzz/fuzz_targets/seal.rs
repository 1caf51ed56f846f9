//! Sealed requests, their answers and receipts: nothing opens and holds but what was sealed.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../iris-crypto/tests/properties/seal.rs"]
mod properties;

fuzz_target!(|bytes: &[u8]| properties::seal(bytes));
