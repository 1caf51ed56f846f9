//! What holds for the tokens of sessions, whatever a caller sends; shared by the tests and a fuzz
//! target.

use std::sync::LazyLock;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use iris_core::AccountId;
use iris_crypto::Secret;
use iris_crypto::jwt::{Claims, Jwt, JwtKey, LIFETIME};
use iris_crypto::refresh::{Refresh, RefreshKey, SessionId};
use serde_json::Value;
use sha2::Sha256;

/// When tokens are checked here, in seconds since the Unix epoch.
pub(crate) const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "iris-test";
const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

/// Reads what the first byte says: claims under a good signature, a sound token with some bytes
/// changed, or any text.
pub(crate) fn tokens(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let parties = &*PARTIES;
    match kind % 4 {
        0 => claims(bytes),
        1 => edited(&parties.access, bytes, |text| parties.jwt.verify(text, NOW).is_ok()),
        2 => edited(&parties.refresh, bytes, |text| parties.key.verify(text).is_ok()),
        _ => {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            assert!(parties.jwt.verify(text, NOW).is_err() || text == parties.access);
            if let Ok(refresh) = parties.key.verify(text) {
                assert_eq!(*parties.key.issue(&refresh), text, "a token has one spelling");
            }
        }
    }
}

/// Whoever knew the key could still sign nothing but claims that hold.
fn claims(payload: &[u8]) {
    let parties = &*PARTIES;
    let payload = BASE64URL_NOPAD.encode(payload);
    let signed = format!("{}.{payload}", parties.header);
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY).expect("HMAC takes keys of any length");
    mac.update(signed.as_bytes());
    let token = format!("{signed}.{}", BASE64URL_NOPAD.encode(&mac.finalize().into_bytes()));
    let Ok(Claims { account, session, issued }) = parties.jwt.verify(&token, NOW) else { return };
    let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).expect("it was encoded here");
    let payload: Value = serde_json::from_slice(&payload).expect("what was accepted is JSON");
    let members: Vec<&str> =
        payload.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    assert_eq!(members.len(), 8, "{members:?}");
    assert_eq!((&payload["iss"], &payload["aud"]), (&ISSUER.into(), &"iris-api".into()));
    assert_eq!(payload["sub"], account.to_string());
    assert_eq!(payload["sid"], session.to_string());
    assert_eq!((&payload["iat"], &payload["nbf"]), (&issued.into(), &issued.into()));
    let expires = payload["exp"].as_u64().expect("a time is a number");
    assert!(NOW < expires && expires - issued <= LIFETIME && issued <= NOW + 60, "{payload}");
}

/// Changes bytes of `sound` by pairs of a place and a byte: nothing else is good than what it was.
fn edited(sound: &str, edits: &[u8], is_good: impl Fn(&str) -> bool) {
    let mut bytes = sound.as_bytes().to_vec();
    for edit in edits.as_chunks::<3>().0 {
        let place = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % (bytes.len() + 1);
        if let Some(byte) = bytes.get_mut(place) {
            *byte = edit[2];
        } else if bytes.len() < 2 * sound.len() {
            bytes.push(edit[2]);
        } else {
            bytes.truncate(edit[2].into());
        }
        if bytes.is_empty() {
            break;
        }
    }
    let Ok(text) = std::str::from_utf8(&bytes) else { return };
    assert_eq!(is_good(text), text == sound, "{text}");
}

/// Returns claims that hold, as JSON.
pub(crate) fn sound_claims() -> String {
    let payload = PARTIES.access.split('.').nth(1).expect("a token has three parts");
    let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).expect("it was encoded here");
    String::from_utf8(payload).expect("claims are JSON")
}

struct Parties {
    jwt: Jwt,
    key: RefreshKey,
    header: String,
    access: String,
    refresh: String,
}

static PARTIES: LazyLock<Parties> = LazyLock::new(|| {
    let jwt = Jwt::new(ISSUER, JwtKey::new(KEY));
    let key = RefreshKey::new(&Secret::from_bytes([6; 32]));
    let account = AccountId::from_bytes([1; 16]);
    let session = SessionId::from_bytes([2; 16]);
    let access = jwt.issue(account, session, NOW).to_string();
    let header = access.split('.').next().expect("a token has three parts").to_owned();
    let refresh = key.issue(&Refresh { account, session, number: 7 }).to_string();
    Parties { jwt, key, header, access, refresh }
});
