//! Refresh tokens: what a session goes on with.
//!
//! A token names its session, counts how often the session was renewed, and is vouched for by a
//! MAC under a key that lies outside of the database: nothing in a stolen database is a token or
//! leads to one. Whoever keeps sessions accepts only the number that is next, so a token is good
//! once; the second use of one means that somebody else has it too, and ends the session.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use iris_core::AccountId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::identity::{decode_exact, text_form};
use crate::random::random_bytes;
use crate::secret::Secret;

const PREFIX: &str = "iris_refresh_";
const MAC_LEN: usize = 16;
const NAMES_LEN: usize = 16 + 16 + 4;
/// 52 bytes in base32.
const ENCODED_LEN: usize = 84;

/// Names a session. The text is hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

/// Says that a text is no [`SessionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session's id is 32 hexadecimal digits")]
pub struct SessionIdError;

impl SessionId {
    /// Draws the id of a new session.
    pub fn generate() -> Self {
        Self(random_bytes())
    }

    /// Takes over 16 random bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl FromStr for SessionId {
    type Err = SessionIdError;

    fn from_str(text: &str) -> Result<Self, SessionIdError> {
        decode_exact(&HEXLOWER, text).map(Self).ok_or(SessionIdError)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

text_form!(SessionId);

/// What a refresh token says, once its MAC was found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// Whose session it goes on with.
    pub account: AccountId,
    /// The session.
    pub session: SessionId,
    /// How often the session was renewed before this token was made.
    pub number: u32,
}

/// A refresh token was not accepted. The text itself is kept out of the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the refresh token is not valid")]
pub struct RefreshError;

/// Makes refresh tokens and checks them.
#[derive(Clone)]
pub struct RefreshKey(Hmac<Sha256>);

impl RefreshKey {
    /// Derives the key from `secret`.
    pub fn new(secret: &Secret) -> Self {
        let key = secret.derive("iris/refresh/v1", b"");
        Self(Hmac::new_from_slice(key.reveal()).expect("HMAC takes keys of any length"))
    }

    /// Makes the token that says `refresh`.
    pub fn issue(&self, refresh: &Refresh) -> Zeroizing<String> {
        let names = names(refresh);
        let mac = self.mac(&names).finalize().into_bytes();
        let mut text = Zeroizing::new(PREFIX.to_owned());
        let whole = Zeroizing::new([&names[..], &mac[..MAC_LEN]].concat());
        BASE32_NOPAD.encode_append(&whole, &mut text);
        text.make_ascii_lowercase();
        text
    }

    /// Reads a token and checks its MAC; not whether it was used before.
    pub fn verify(&self, token: &str) -> Result<Refresh, RefreshError> {
        let encoded = token.strip_prefix(PREFIX).ok_or(RefreshError)?;
        if encoded.len() != ENCODED_LEN || encoded.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(RefreshError);
        }
        let upper = Zeroizing::new(encoded.to_ascii_uppercase());
        let bytes: [u8; NAMES_LEN + MAC_LEN] =
            decode_exact(&BASE32_NOPAD, &upper).ok_or(RefreshError)?;
        let (named, mac) = bytes.split_first_chunk::<NAMES_LEN>().ok_or(RefreshError)?;
        self.mac(named).verify_truncated_left(mac).map_err(|_| RefreshError)?;
        let (account, rest) = named.split_first_chunk::<16>().ok_or(RefreshError)?;
        let (session, number) = rest.split_first_chunk::<16>().ok_or(RefreshError)?;
        let number = number.try_into().map_err(|_| RefreshError)?;
        Ok(Refresh {
            account: AccountId::from_bytes(*account),
            session: SessionId(*session),
            number: u32::from_be_bytes(number),
        })
    }

    fn mac(&self, names: &[u8; NAMES_LEN]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(names);
        mac
    }
}

impl fmt::Debug for RefreshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshKey(..)")
    }
}

fn names(refresh: &Refresh) -> [u8; NAMES_LEN] {
    let mut names = [0; NAMES_LEN];
    names[..16].copy_from_slice(refresh.account.as_bytes());
    names[16..32].copy_from_slice(&refresh.session.0);
    names[32..].copy_from_slice(&refresh.number.to_be_bytes());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> RefreshKey {
        RefreshKey::new(&Secret::from_bytes([7; 32]))
    }

    fn refresh() -> Refresh {
        let account = AccountId::from_bytes([1; 16]);
        Refresh { account, session: SessionId::from_bytes([2; 16]), number: 3 }
    }

    #[test]
    fn token_says_what_it_was_made_for_under_its_key_only() {
        let token = key().issue(&refresh());
        assert_eq!(token.len(), PREFIX.len() + ENCODED_LEN);
        assert_eq!(key().verify(&token), Ok(refresh()));
        let other = RefreshKey::new(&Secret::from_bytes([8; 32]));
        assert_eq!(other.verify(&token), Err(RefreshError));
        assert_ne!(key().issue(&Refresh { number: 4, ..refresh() }), token);
    }

    #[test]
    fn every_changed_character_is_refused() {
        let token = key().issue(&refresh());
        for at in 0..token.len() {
            for replaced in [b'a', b'b', b'A', b'7', b'=', b'_'] {
                let mut bytes = token.as_bytes().to_vec();
                if bytes[at] == replaced {
                    continue;
                }
                bytes[at] = replaced;
                let edited = String::from_utf8(bytes).unwrap();
                assert_eq!(key().verify(&edited), Err(RefreshError), "{edited}");
            }
        }
        for edited in [&token[1..], &token[..token.len() - 1], "", PREFIX] {
            assert_eq!(key().verify(edited), Err(RefreshError), "{edited}");
        }
    }

    #[test]
    fn key_does_not_print() {
        assert_eq!(format!("{:?}", key()), "RefreshKey(..)");
    }
}
