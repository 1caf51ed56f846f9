//! What a peer may send can be anything: it is refused, or it is what was sealed and signed.
//!
//! The same properties run without end in the fuzz targets `text`, `tokens`, `sealed`, `seal` and
//! `log`.

use proptest::prelude::*;

mod properties;
#[path = "properties/seal.rs"]
mod seal;
#[path = "properties/tokens.rs"]
mod tokens;

/// Texts that are almost keys: the right characters, and now and then the right length.
fn almost_key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9a-f]{63,65}",
        "[A-Za-z0-9_-]{85,87}",
        "iris_[a-z2-7]{51,53}",
        "iris_invite_[a-z2-7]{51,53}",
        "(bcrypt-[0-9]{1,3}|argon2(id|i|d|)-[0-9]{1,6}-[0-9]{1,2}-[0-9]{1,2}-[0-9]{1,3})",
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

/// What belongs to a log, damaged in a few places.
fn almost_of_a_log() -> impl Strategy<Value = Vec<u8>> {
    let text = properties::sound_checkpoint().text().as_bytes().to_vec();
    let sound = prop_oneof![
        Just([&[0], &text[..]].concat()),
        "iris/log/(coordinator|certificate|roster|other)/v1\\x00.{30,34}".prop_map(|entry| [
            &[1],
            entry.as_bytes()
        ]
        .concat()),
        (0_u8..100, 1_u8..=100)
            .prop_map(|(index, size)| properties::sound_inclusion(index % size, size)),
        (0_u8..100, 1_u8..=100)
            .prop_map(|(old, new)| properties::sound_consistency(old % new, new)),
    ];
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let whole = prop::bool::weighted(0.8);
    (sound, damage, any::<prop::sample::Index>(), whole).prop_map(
        |(mut bytes, damage, cut, whole)| {
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if !whole {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        },
    )
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

proptest! {
    #[test]
    fn logs_are_refused_or_are_what_their_coordinator_wrote(
        bytes in prop_oneof![3 => almost_of_a_log(), 1 => any::<Vec<u8>>()]
    ) {
        properties::log(&bytes);
    }
}

/// Almost requests, edits of one, almost records, edits of an answer, almost receipts.
fn almost_sealed() -> impl Strategy<Value = Vec<u8>> {
    let starting = |kind: u8, start: &'static [u8], most: usize| {
        prop::collection::vec(any::<u8>(), 0..most)
            .prop_map(move |rest| [&[kind], start, &rest[..]].concat())
    };
    let edits = prop::collection::vec((any::<u8>(), 0_u8..10, any::<u8>(), any::<u8>()), 0..4);
    prop_oneof![
        starting(0, b"iris/req/v1\0\x01", 160),
        prop::collection::vec((0_u8..6, any::<u8>(), any::<u8>()), 0..3).prop_map(|edits| edits
            .iter()
            .fold(vec![1], |all, (high, low, bits)| {
                [&all[..], &[*high, *low, *bits]].concat()
            })),
        prop::collection::vec((0_usize..70, 0_u8..6), 0..6).prop_map(|records| {
            records.iter().fold(vec![2, 7], |all, (length, kind)| {
                let length_byte = u8::try_from(length + 1).unwrap_or(0);
                [&all[..], &[0, 0, 0, length_byte, *kind], &vec![*kind; *length]].concat()
            })
        }),
        (0_u8..3, edits).prop_map(|(shape, edits)| {
            edits.iter().fold(vec![3, shape], |all, (kind, at, high, low)| {
                [&all[..], &[*kind, *at, *high, *low]].concat()
            })
        }),
        starting(4, b"iris/receipt/v1\0", 300),
        any::<Vec<u8>>(),
    ]
}

proptest! {
    #[test]
    fn sealed_requests_and_answers_are_refused_or_are_as_they_were_sealed(
        bytes in almost_sealed()
    ) {
        seal::seal(&bytes);
    }
}

#[test]
fn the_sound_certificate_passes() {
    properties::certificate(properties::sound_certificate());
}

/// Claims with some members replaced, left out, doubled or added.
fn almost_claims() -> impl Strategy<Value = String> {
    let sound = tokens::sound_claims();
    let members: Vec<String> =
        sound.trim_matches(['{', '}']).split(',').map(str::to_owned).collect();
    let time = (-1000_i64..1000).prop_map(|by| tokens::NOW.saturating_add_signed(by).to_string());
    let value = prop_oneof![
        time,
        Just("null".to_owned()),
        Just("\"\"".to_owned()),
        Just("\"iris-api\"".to_owned()),
        "\"[0-9a-f]{31,33}\"",
        any::<u64>().prop_map(|number| number.to_string()),
    ];
    let name =
        prop::sample::select(vec!["iss", "aud", "sub", "iat", "nbf", "exp", "jti", "sid", "x"]);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, name, value), 0..4);
    changes.prop_map(move |changes| {
        let mut members = members.clone();
        for (at, kind, name, value) in changes {
            let member = format!("\"{name}\":{value}");
            let at = at.index(members.len() + 1).min(members.len());
            match kind {
                0 if at < members.len() => drop(members.remove(at)),
                1 => members.insert(at, member),
                _ => {
                    if let Some(known) =
                        members.iter_mut().find(|known| known.starts_with(&member[..6]))
                    {
                        known.clone_from(&member);
                    }
                }
            }
        }
        format!("{{{}}}", members.join(","))
    })
}

fn almost_tokens() -> impl Strategy<Value = Vec<u8>> {
    let edits = |kind: u8| {
        prop::collection::vec((any::<u16>(), any::<u8>()), 0..4).prop_map(move |edits| {
            edits.iter().fold(vec![kind], |all, (place, byte)| {
                [&all[..], &place.to_be_bytes(), &[*byte]].concat()
            })
        })
    };
    prop_oneof![
        4 => almost_claims().prop_map(|claims| [&[0], claims.as_bytes()].concat()),
        2 => edits(1),
        2 => edits(2),
        1 => "(iris_refresh_[a-z2-7]{83,85}|[A-Za-z0-9_-]{0,90}\\.[A-Za-z0-9_-]{0,90}\\.[A-Za-z0-9_-]{43})"
            .prop_map(|text| [&[3], text.as_bytes()].concat()),
        1 => any::<Vec<u8>>(),
    ]
}

proptest! {
    #[test]
    fn tokens_of_sessions_are_refused_or_are_what_was_issued(bytes in almost_tokens()) {
        tokens::tokens(&bytes);
    }
}

#[test]
fn the_sound_tokens_pass() {
    for kind in [1, 2] {
        tokens::tokens(&[kind]);
    }
    assert_eq!(tokens::sound_claims().matches(':').count(), 8);
}
