//! API keys: what programs show to be let in.
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
        TokenHash(Sha256::digest(self.reveal().as_bytes()).into())
    }

    /// Shows the token.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_LEN));
        text.push_str(PREFIX);
        BASE32_NOPAD.encode_append(self.secret.reveal(), &mut text);
        text.make_ascii_lowercase();
        text
    }
}

impl FromStr for ApiToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(TokenError)?;
        if encoded.len() != ENCODED_LEN || encoded.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(TokenError);
        }
        let upper = Zeroizing::new(encoded.to_ascii_uppercase());
        decode_exact(&BASE32_NOPAD, &upper)
            .map(|bytes| Self { secret: Secret::from_bytes(bytes) })
            .ok_or(TokenError)
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiToken(..)")
    }
}

/// What is kept of a token: no way leads back to it. The text is hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
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
    fn token_does_not_print() {
        assert_eq!(format!("{:?}", ApiToken::generate()), "ApiToken(..)");
    }

    proptest! {
        #[test]
        fn parsing_anything_never_panics(text: String) {
            prop_assert!(text.parse::<ApiToken>().is_err());
            let _ = format!("iris_{text}").parse::<ApiToken>();
        }
    }
}
