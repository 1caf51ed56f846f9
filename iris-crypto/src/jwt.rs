//! Access tokens of sessions: JSON Web Tokens, as narrow as they can be.
//!
//! A JWT says itself how it wants to be checked, which is where most attacks on JWTs begin. Here
//! its header must be one of two texts, character for character: HS256 with the current key, or
//! with the one before. So there is no algorithm to choose, no key to look up and nothing to parse
//! before the MAC was found good, which takes the same time for any wrong one.
//!
//! A token is good for [`LIFETIME`] and names its session, by which it can be ended earlier: never
//! by its text, since one token could have several.

use std::fmt;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use iris_core::AccountId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::identity::decode_exact;
use crate::random::random_bytes;
use crate::refresh::SessionId;

/// How long a token is good, in seconds.
pub const LIFETIME: u64 = 15 * 60;
/// The longest token that is looked at, in bytes.
pub const MAX_LEN: usize = 1024;

/// What tokens of this kind are for.
const AUDIENCE: &str = "iris-api";
/// How many seconds the clock may have been set back since a token was made.
const SKEW: u64 = 60;

/// A key that tokens are signed with.
#[derive(Clone)]
pub struct JwtKey {
    header: String,
    mac: Hmac<Sha256>,
}

impl JwtKey {
    /// Takes a secret over, at least 32 bytes where strangers can come.
    pub fn new(secret: &[u8]) -> Self {
        // Longer than the block, HMAC hashes its key first, so any length will do.
        let mac = Hmac::new_from_slice(secret).expect("HMAC takes keys of any length");
        let hash = Sha256::new().chain_update(b"iris/jwt/kid/v1\0").chain_update(secret).finalize();
        let kid = HEXLOWER.encode(&hash[..4]);
        let header = format!(r#"{{"alg":"HS256","typ":"JWT","kid":"{kid}"}}"#);
        Self { header: BASE64URL_NOPAD.encode(header.as_bytes()), mac }
    }

    fn mac(&self, payload: &str) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        for part in [&self.header, ".", payload] {
            mac.update(part.as_bytes());
        }
        mac
    }
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtKey(..)")
    }
}

/// Makes tokens and checks them.
#[derive(Clone, Debug)]
pub struct Jwt {
    issuer: String,
    current: JwtKey,
    previous: Option<JwtKey>,
}

/// What a good token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whose session it is.
    pub account: AccountId,
    /// The session, which all tokens that came of one login share.
    pub session: SessionId,
    /// When the token was made, in seconds since the Unix epoch.
    pub issued: u64,
}

/// A token was not accepted. Why is told to nobody who shows one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the access token is not valid, or no longer")]
pub struct JwtError;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: AccountId,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: &'a str,
    sid: &'a str,
}

impl Jwt {
    /// Signs with `current` in the name of `issuer`.
    pub fn new(issuer: impl Into<String>, current: JwtKey) -> Self {
        Self { issuer: issuer.into(), current, previous: None }
    }

    /// Accepts tokens of the key before, too, so that a key can be replaced while sessions last.
    pub fn with_previous(mut self, previous: JwtKey) -> Self {
        self.previous = Some(previous);
        self
    }

    /// Makes a token, good from `now` on, in seconds since the Unix epoch.
    pub fn issue(&self, account: AccountId, session: SessionId, now: u64) -> Zeroizing<String> {
        let id: [u8; 16] = random_bytes();
        let payload = Payload {
            iss: &self.issuer,
            aud: AUDIENCE,
            sub: account,
            iat: now,
            nbf: now,
            exp: now.saturating_add(LIFETIME),
            jti: &HEXLOWER.encode(&id),
            sid: &session.to_string(),
        };
        let payload = serde_json::to_vec(&payload).expect("claims have a JSON form");
        let payload = BASE64URL_NOPAD.encode(&payload);
        let mac = BASE64URL_NOPAD.encode(&self.current.mac(&payload).finalize().into_bytes());
        Zeroizing::new(format!("{}.{payload}.{mac}", self.current.header))
    }

    /// Checks a token at `now`, in seconds since the Unix epoch.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, JwtError> {
        if token.len() > MAX_LEN {
            return Err(JwtError);
        }
        let (header, rest) = token.split_once('.').ok_or(JwtError)?;
        let (payload, mac) = rest.split_once('.').ok_or(JwtError)?;
        let mut keys = std::iter::once(&self.current).chain(&self.previous);
        let key = keys.find(|key| key.header == header).ok_or(JwtError)?;
        let mac: [u8; 32] = decode_exact(&BASE64URL_NOPAD, mac).ok_or(JwtError)?;
        key.mac(payload).verify_slice(&mac).map_err(|_| JwtError)?;
        let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).map_err(|_| JwtError)?;
        self.accept(&serde_json::from_slice(&payload).map_err(|_| JwtError)?, now)
    }

    fn accept(&self, payload: &Payload<'_>, now: u64) -> Result<Claims, JwtError> {
        let Payload { iss, aud, sub, iat, nbf, exp, jti, sid } = *payload;
        let named = iss == self.issuer && aud == AUDIENCE && !jti.is_empty();
        let short = iat == nbf && exp.checked_sub(iat).is_some_and(|life| life <= LIFETIME);
        let in_time = now < exp && nbf <= now.saturating_add(SKEW);
        if !(named && short && in_time) {
            return Err(JwtError);
        }
        let session = sid.parse().map_err(|_| JwtError)?;
        Ok(Claims { account: sub, session, issued: iat })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn jwt() -> Jwt {
        Jwt::new("iris-test", JwtKey::new(KEY))
    }

    fn account() -> AccountId {
        AccountId::from_bytes([1; 16])
    }

    fn session() -> SessionId {
        SessionId::from_bytes([2; 16])
    }

    fn encode(value: &Value) -> String {
        BASE64URL_NOPAD.encode(value.to_string().as_bytes())
    }

    /// Signs any header and payload with the good key.
    fn signed(header: &str, payload: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(KEY).unwrap();
        mac.update(format!("{header}.{payload}").as_bytes());
        let mac = BASE64URL_NOPAD.encode(&mac.finalize().into_bytes());
        format!("{header}.{payload}.{mac}")
    }

    fn claims() -> Value {
        json!({
            "iss": "iris-test", "aud": "iris-api", "sub": account().to_string(), "iat": NOW,
            "nbf": NOW, "exp": NOW + LIFETIME, "jti": "1", "sid": session().to_string(),
        })
    }

    #[test]
    fn token_is_good_for_a_quarter_of_an_hour() {
        let token = jwt().issue(account(), session(), NOW);
        let expected = Claims { account: account(), session: session(), issued: NOW };
        for now in [NOW - SKEW, NOW, NOW + LIFETIME - 1] {
            assert_eq!(jwt().verify(&token, now), Ok(expected), "{now}");
        }
        for now in [0, NOW - SKEW - 1, NOW + LIFETIME, u64::MAX] {
            assert_eq!(jwt().verify(&token, now), Err(JwtError), "{now}");
        }
        assert_ne!(jwt().issue(account(), session(), NOW), token);
    }

    #[test]
    fn token_is_what_other_libraries_sign_and_read() {
        // The key is its own octets, so any JWT library agrees that knows JWT_SECRET.
        let token = jwt().issue(account(), session(), NOW);
        let parts: Vec<_> = token.split('.').collect();
        assert_eq!(signed(parts[0], parts[1]), *token);
        let header = BASE64URL_NOPAD.decode(parts[0].as_bytes()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!(header["alg"], "HS256");
        assert!(jwt().verify(&signed(parts[0], &encode(&claims())), NOW).is_ok());
    }

    #[test]
    fn attack_26_header_that_is_not_ours_to_the_letter_is_refused() {
        let good = jwt().issue(account(), session(), NOW);
        let (kid, payload) = (JwtKey::new(KEY).header, good.split('.').nth(1).unwrap());
        let kid: Value =
            serde_json::from_slice(&BASE64URL_NOPAD.decode(kid.as_bytes()).unwrap()).unwrap();
        let kid = kid["kid"].as_str().unwrap();
        for header in [
            json!({"alg": "none", "typ": "JWT", "kid": kid}),
            json!({"alg": "None", "typ": "JWT", "kid": kid}),
            json!({"alg": "RS256", "typ": "JWT", "kid": kid}),
            json!({"alg": "HS512", "typ": "JWT", "kid": kid}),
            json!({"alg": "HS256", "typ": "JWT", "kid": "00000000"}),
            json!({"alg": "HS256", "typ": "JWT", "kid": "../../dev/null"}),
            json!({"alg": "HS256", "typ": "JWT"}),
            json!({"alg": "HS256", "typ": "JWT", "kid": kid, "jku": "https://evil.example"}),
            json!({"alg": "HS256", "typ": "JWT", "kid": kid, "crit": ["exp"]}),
        ] {
            let token = signed(&encode(&header), payload);
            assert_eq!(jwt().verify(&token, NOW), Err(JwtError), "{header}");
            let unsigned = format!("{}.{payload}.", encode(&header));
            assert_eq!(jwt().verify(&unsigned, NOW), Err(JwtError), "{header}");
        }
    }

    #[test]
    fn attack_26_claims_that_do_not_hold_are_refused() {
        let header = JwtKey::new(KEY).header;
        let verify = |claims: &Value| jwt().verify(&signed(&header, &encode(claims)), NOW);
        assert!(verify(&claims()).is_ok());
        for (claim, value) in [
            ("iss", json!("iris-other")),
            ("aud", json!("other")),
            ("aud", json!(["iris-api"])),
            ("sub", json!("1")),
            ("iat", json!(NOW - 1)),
            ("nbf", json!(NOW + SKEW + 1)),
            ("exp", json!(NOW)),
            ("exp", json!(NOW - 1)),
            ("exp", json!(NOW + LIFETIME + 1)),
            ("exp", json!(u64::MAX)),
            ("exp", json!(-1)),
            ("exp", json!(format!("{}", NOW + 10))),
            ("jti", json!("")),
            ("sid", json!("x")),
            ("admin", json!(true)),
        ] {
            let mut claims = claims();
            claims[claim] = value;
            assert_eq!(verify(&claims), Err(JwtError), "{claims}");
        }
        for claim in ["iss", "aud", "sub", "iat", "nbf", "exp", "jti", "sid"] {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(claim);
            assert_eq!(verify(&claims), Err(JwtError), "{claim}");
        }
    }

    #[test]
    fn attack_26_every_changed_character_counts() {
        let token = jwt().issue(account(), session(), NOW);
        for at in 0..token.len() {
            for replaced in [b'A', b'B', b'.', b'=', b'+'] {
                let mut bytes = token.as_bytes().to_vec();
                if bytes[at] == replaced {
                    continue;
                }
                bytes[at] = replaced;
                let edited = String::from_utf8(bytes).unwrap();
                assert_eq!(jwt().verify(&edited, NOW), Err(JwtError), "{edited}");
            }
        }
        for edited in [format!("{}=", *token), format!(" {}", *token), format!("{}.", *token)] {
            assert_eq!(jwt().verify(&edited, NOW), Err(JwtError), "{edited}");
        }
    }

    #[test]
    fn replaced_key_is_good_until_it_is_forgotten() {
        let old = jwt().issue(account(), session(), NOW);
        let new = JwtKey::new(b"another key");
        let rotated = Jwt::new("iris-test", new.clone()).with_previous(JwtKey::new(KEY));
        assert!(rotated.verify(&old, NOW).is_ok());
        let fresh = rotated.issue(account(), session(), NOW);
        assert!(rotated.verify(&fresh, NOW).is_ok());
        assert_eq!(jwt().verify(&fresh, NOW), Err(JwtError));
        assert_eq!(Jwt::new("iris-test", new).verify(&old, NOW), Err(JwtError));
    }

    #[test]
    fn keys_do_not_print() {
        let printed = format!("{:?}", jwt().with_previous(JwtKey::new(KEY)));
        assert!(!printed.contains("0123"), "{printed}");
    }
}
