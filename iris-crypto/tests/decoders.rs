//! What a peer may send can be anything: it is refused, or it is what was sealed and signed.
//!
//! The same properties run without end in the fuzz targets `text` and `sealed`.

use proptest::prelude::*;

mod properties;

/// Texts that are almost keys: the right characters, and now and then the right length.
fn almost_key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9a-f]{63,65}",
        "[A-Za-z0-9_-]{85,87}",
        "iris_[a-z2-7]{51,53}",
        "[0-9 -]{14,24}",
        "\\PC{0,40}",
        any::<String>(),
    ]
}

fn almost_certificate() -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (damage, any::<prop::sample::Index>(), any::<bool>()).prop_map(|(damage, cut, whole)| {
        let mut bytes = properties::sound_certificate().to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    })
}

proptest! {
    #[test]
    fn texts_of_keys_are_refused_or_have_one_spelling(text in almost_key()) {
        properties::text(&text);
    }

    #[test]
    fn certificates_are_refused_or_are_the_one_that_was_signed(
        bytes in prop_oneof![3 => almost_certificate(), 1 => any::<Vec<u8>>()]
    ) {
        properties::certificate(&bytes);
    }

    #[test]
    fn nothing_opens_that_was_not_sealed(
        bytes in prop::collection::vec(any::<u8>(), 0..160)
    ) {
        properties::sealed(&bytes);
    }
}

#[test]
fn the_sound_certificate_passes() {
    properties::certificate(properties::sound_certificate());
}
