//! Files that say they are a month's books: money adds up in those that hold.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../iris-core/tests/properties/books.rs"]
mod properties;

fuzz_target!(|bytes: &[u8]| properties::file(bytes));
