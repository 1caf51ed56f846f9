//! API keys, which programs show to be let in, and invitations, which people open accounts with.
//!
//! A token is 256 random bits, so nothing can be learnt by guessing, and a fast hash is enough to
//! keep it: the store holds the hash and looks it up, the token is shown once. Looking up a hash
//! tells an attacker nothing by its timing, since he cannot choose the hash that is compared.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::identity::{decode_exact, text_form};
use crate::secret::Secret;

const PREFIX: &str = "iris_";
const INVITATION_PREFIX: &str = "iris_invite_";
const ENCODED_LEN: usize = 52;

/// The length of a token's text, in bytes.
pub const TOKEN_LEN: usize = PREFIX.len() + ENCODED_LEN;

/// A secret that lets a program in. The text is `iris_` and 52 characters of lower-case base32.
#[derive(Clone)]
pub struct ApiToken {
    secret: Secret,
}

/// Says why a text is no token. The text itself is kept out of the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token is \"iris_\" and 52 characters of a-z and 2-7")]
pub struct TokenError;

impl ApiToken {
    /// Draws a new token.
    pub fn generate() -> Self {
        Self { secret: Secret::generate() }
    }

    /// Returns what the store keeps and looks up in its place: the SHA-256 of the text.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.reveal())
    }

    /// Shows the token.
    pub fn reveal(&self) -> Zeroizing<String> {
        encode(PREFIX, &self.secret)
    }
}

impl FromStr for ApiToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        decode(PREFIX, text).map(|secret| Self { secret }).ok_or(TokenError)
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiToken(..)")
    }
}

/// A secret that opens accounts. The text is `iris_invite_` and 52 characters of lower-case base32.
#[derive(Clone)]
pub struct Invitation {
    secret: Secret,
}

/// Says why a text is no invitation. The text itself is kept out of the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an invitation is \"iris_invite_\" and 52 characters of a-z and 2-7")]
pub struct InvitationError;

impl Invitation {
    /// Draws a new invitation.
    pub fn generate() -> Self {
        Self { secret: Secret::generate() }
    }

    /// Returns what the store keeps and looks up in its place: the SHA-256 of the text.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.reveal())
    }

    /// Shows the invitation.
    pub fn reveal(&self) -> Zeroizing<String> {
        encode(INVITATION_PREFIX, &self.secret)
    }
}

impl FromStr for Invitation {
    type Err = InvitationError;

    fn from_str(text: &str) -> Result<Self, InvitationError> {
        decode(INVITATION_PREFIX, text).map(|secret| Self { secret }).ok_or(InvitationError)
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Invitation(..)")
    }
}

fn encode(prefix: &str, secret: &Secret) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + ENCODED_LEN));
    text.push_str(prefix);
    BASE32_NOPAD.encode_append(secret.reveal(), &mut text);
    text.make_ascii_lowercase();
    text
}

fn decode(prefix: &str, text: &str) -> Option<Secret> {
    let encoded = text.strip_prefix(prefix)?;
    if encoded.len() != ENCODED_LEN || encoded.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let upper = Zeroizing::new(encoded.to_ascii_uppercase());
    decode_exact(&BASE32_NOPAD, &upper).map(Secret::from_bytes)
}

/// What is kept of a token: no way leads back to it. The text is hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Returns the hash's 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Says that a text is no [`TokenHash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token's hash is 64 hexadecimal digits")]
pub struct TokenHashError;

impl FromStr for TokenHash {
    type Err = TokenHashError;

    fn from_str(text: &str) -> Result<Self, TokenHashError> {
        decode_exact(&HEXLOWER, text).map(Self).ok_or(TokenHashError)
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

text_form!(TokenHash);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn token_survives_its_text() {
        let token = ApiToken::generate();
        let text = token.reveal();
        assert_eq!(text.len(), TOKEN_LEN);
        assert_eq!(text.parse::<ApiToken>().unwrap().hash(), token.hash());
        assert_ne!(ApiToken::generate().hash(), token.hash());
    }

    #[test]
    fn hash_is_the_sha256_of_the_text() {
        let token = ApiToken { secret: Secret::from_bytes([0; 32]) };
        let text = format!("iris_{}", "a".repeat(52));
        assert_eq!(*token.reveal(), text);
        assert_eq!(token.hash().as_bytes()[..], Sha256::digest(text)[..]);
        assert_eq!(token.hash().to_string().parse(), Ok(token.hash()));
    }

    #[test]
    fn token_has_one_spelling() {
        let text = ApiToken { secret: Secret::from_bytes([0; 32]) }.reveal();
        let other_spellings = [
            text.to_uppercase(),
            text.replace("iris_a", "iris_A"),
            format!("{}b", &text[..56]),
            format!(" {}", *text),
            format!("{}=", *text),
            text[..56].to_owned(),
            String::new(),
        ];
        for spelling in other_spellings {
            assert_eq!(spelling.parse::<ApiToken>().err(), Some(TokenError), "{spelling}");
        }
    }

    #[test]
    fn invitation_is_no_key_and_a_key_no_invitation() {
        let (invitation, token) = (Invitation::generate(), ApiToken::generate());
        let text = invitation.reveal();
        assert_eq!(text.parse::<Invitation>().unwrap().hash(), invitation.hash());
        assert!(text.parse::<ApiToken>().is_err() && token.reveal().parse::<Invitation>().is_err());
        assert!(text.to_uppercase().parse::<Invitation>().is_err());
        assert!(text[..63].parse::<Invitation>().is_err());
    }

    #[test]
    fn token_does_not_print() {
        let printed = format!("{:?} {:?}", ApiToken::generate(), Invitation::generate());
        assert_eq!(printed, "ApiToken(..) Invitation(..)");
    }

    proptest! {
        #[test]
        fn parsing_anything_never_panics(text: String) {
            prop_assert!(text.parse::<ApiToken>().is_err());
            let _ = format!("iris_{text}").parse::<ApiToken>();
        }
    }
}
