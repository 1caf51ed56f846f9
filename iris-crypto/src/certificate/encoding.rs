//! The bytes of a certificate.

use iris_core::Timestamp;

use super::{CertificateError, Claims, MAX_EXTENSIONS_LEN, Role};
use crate::fields::{Fields, push_lp};
use crate::hpke;
use crate::identity::PublicIdentity;
use crate::sealing_key::SealingPublicKey;

const MAGIC: [u8; 16] = *b"iris/keycert/v1\0";

/// No certificate is longer.
pub(super) const MAX_LEN: usize = 16 + 1 + 32 + 6 + 32 + 24 + 2 + 255 + 2 + MAX_EXTENSIONS_LEN + 64;

/// Cuts the times of `claims` to what the encoding can say.
pub(super) fn whole_seconds(claims: Claims) -> Claims {
    let cut = |time: Timestamp| Timestamp::from_millis(time.as_secs() * 1000);
    Claims { not_before: cut(claims.not_before), not_after: cut(claims.not_after), ..claims }
}

/// Returns the bytes that are signed.
pub(super) fn encode(claims: &Claims) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAX_LEN);
    out.extend_from_slice(&MAGIC);
    out.push(match claims.role {
        Role::Node => 1,
        Role::Coordinator => 2,
    });
    out.extend_from_slice(claims.identity.as_bytes());
    for id in [hpke::KEM_ID, hpke::KDF_ID, hpke::AEAD_ID] {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.extend_from_slice(claims.sealing_key.as_bytes());
    for number in [claims.not_before.as_secs(), claims.not_after.as_secs(), claims.serial] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    push_lp(&mut out, claims.origin.as_str().as_bytes());
    push_lp(&mut out, &claims.extensions);
    out
}

/// Reads the signed bytes and the presence of a signature behind them.
pub(super) fn decode(bytes: &[u8]) -> Result<Claims, CertificateError> {
    if bytes.len() > MAX_LEN {
        return Err(CertificateError::Malformed("too long"));
    }
    let mut fields = Fields(bytes);
    if fields.take() != Some(MAGIC) {
        return Err(CertificateError::Malformed("another kind or version"));
    }
    let role = decode_role(fields.take())?;
    let identity = fields.take().ok_or(TOO_SHORT)?;
    let identity = PublicIdentity::from_bytes(identity)
        .map_err(|_| CertificateError::Malformed("not an Ed25519 key"))?;
    check_suite(&mut fields)?;
    let claims = Claims {
        role,
        identity,
        sealing_key: SealingPublicKey::from_bytes(fields.take().ok_or(TOO_SHORT)?),
        not_before: take_time(&mut fields)?,
        not_after: take_time(&mut fields)?,
        serial: fields.take_u64().ok_or(TOO_SHORT)?,
        origin: std::str::from_utf8(fields.take_lp().ok_or(TOO_SHORT)?)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(CertificateError::Malformed("not an origin"))?,
        extensions: fields.take_lp().ok_or(TOO_SHORT)?.to_vec(),
    };
    if claims.extensions.len() > MAX_EXTENSIONS_LEN {
        return Err(CertificateError::Malformed("too many extensions"));
    }
    if fields.0.len() != 64 {
        return Err(CertificateError::Malformed("not followed by exactly one signature"));
    }
    Ok(claims)
}

const TOO_SHORT: CertificateError = CertificateError::Malformed("too short");

fn decode_role(role: Option<[u8; 1]>) -> Result<Role, CertificateError> {
    match role {
        Some([1]) => Ok(Role::Node),
        Some([2]) => Ok(Role::Coordinator),
        Some(_) => Err(CertificateError::Malformed("an unknown role")),
        None => Err(TOO_SHORT),
    }
}

fn check_suite(fields: &mut Fields<'_>) -> Result<(), CertificateError> {
    let mut id = || fields.take_u16().ok_or(TOO_SHORT);
    let (kem, kdf, aead) = (id()?, id()?, id()?);
    if (kem, kdf, aead) == (hpke::KEM_ID, hpke::KDF_ID, hpke::AEAD_ID) {
        Ok(())
    } else {
        Err(CertificateError::UnknownSuite { kem, kdf, aead })
    }
}

fn take_time(fields: &mut Fields<'_>) -> Result<Timestamp, CertificateError> {
    let seconds = fields.take_u64().ok_or(TOO_SHORT)?;
    seconds
        .checked_mul(1000)
        .map(Timestamp::from_millis)
        .ok_or(CertificateError::Malformed("a time out of range"))
}
