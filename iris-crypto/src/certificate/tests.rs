use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::identity::Identity;
use crate::sealing_key::SealingKey;
use crate::secret::Secret;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const HOUR: Duration = Duration::from_hours(1);

fn identity() -> Identity {
    Identity::from_seed(&Secret::from_bytes([1; 32]))
}

fn origin() -> Origin {
    "https://iris.example:8443".parse().unwrap()
}

fn claims() -> Claims {
    Claims {
        role: Role::Node,
        identity: identity().public(),
        sealing_key: SealingKey::generate().public(),
        not_before: NOW,
        not_after: NOW.saturating_add(6 * HOUR),
        serial: 5,
        origin: origin(),
        extensions: b"ext".to_vec(),
    }
}

fn verify_at(
    certificate: &SignedCertificate,
    now: Timestamp,
) -> Result<VerifiedCertificate, CertificateError> {
    certificate.verify(&Expectation { role: Role::Node, now, min_serial: 5, origin: &origin() })
}

fn verdict(claims: Claims) -> Result<VerifiedCertificate, CertificateError> {
    verify_at(&SignedCertificate::sign(&identity(), claims), NOW)
}

#[test]
fn certificate_survives_its_bytes_and_its_text() {
    let certificate = SignedCertificate::sign(&identity(), claims());
    assert_eq!(SignedCertificate::decode(certificate.encoded()).unwrap(), certificate);
    assert_eq!(certificate.to_string().parse(), Ok(certificate.clone()));
    let json = serde_json::to_string(&certificate).unwrap();
    assert_eq!(serde_json::from_str::<SignedCertificate>(&json).unwrap(), certificate);
    let verified = verify_at(&certificate, NOW).unwrap();
    assert_eq!(verified.claims(), certificate.unverified_claims());
    assert_eq!(verified.node_id(), identity().node_id());
}

#[test]
fn signed_bytes_are_the_documented_ones() {
    let claims = claims();
    let certificate = SignedCertificate::sign(&identity(), claims.clone());
    let expected = [
        &b"iris/keycert/v1\0\x01"[..],
        identity().public().as_bytes(),
        &[0, 0x20, 0, 1, 0, 2],
        claims.sealing_key.as_bytes(),
        &1_800_000_000_u64.to_be_bytes(),
        &1_800_021_600_u64.to_be_bytes(),
        &5_u64.to_be_bytes(),
        b"\0\x19https://iris.example:8443\0\x03ext",
    ]
    .concat();
    assert_eq!(certificate.signed_part(), expected);
    assert_eq!(certificate.hash().as_bytes()[..], Sha256::digest(expected)[..]);
}

#[test]
fn issued_certificate_verifies_at_once_even_between_two_seconds() {
    let now = Timestamp::from_millis(NOW.as_millis() + 999);
    let key = SealingKey::generate().public();
    let issued = SignedCertificate::issue(&identity(), Role::Node, key, &origin(), now, 5);
    assert_eq!(verify_at(&issued, now).unwrap().sealing_key(), key);
    assert_eq!(SignedCertificate::decode(issued.encoded()).unwrap(), issued);
}

#[test]
fn every_flipped_bit_is_refused() {
    let certificate = SignedCertificate::sign(&identity(), claims());
    for bit in 0..certificate.encoded().len() * 8 {
        let mut bytes = certificate.encoded().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let accepted = SignedCertificate::decode(&bytes).and_then(|c| verify_at(&c, NOW));
        assert!(accepted.is_err(), "bit {bit}");
    }
}

#[test]
fn shorter_and_longer_texts_are_refused() {
    let certificate = SignedCertificate::sign(&identity(), claims());
    for length in 0..certificate.encoded().len() {
        let cut = SignedCertificate::decode(&certificate.encoded()[..length]);
        assert!(matches!(cut, Err(CertificateError::Malformed(_))), "{length} bytes");
    }
    let longer = [certificate.encoded(), &[0]].concat();
    assert!(matches!(SignedCertificate::decode(&longer), Err(CertificateError::Malformed(_))));
    assert!(matches!(
        "A".repeat(5000).parse::<SignedCertificate>(),
        Err(CertificateError::Malformed(_))
    ));
}

#[test]
fn certificate_holds_from_its_beginning_to_its_end_give_or_take_the_skew() {
    let certificate = SignedCertificate::sign(&identity(), claims());
    let before = |time: Timestamp, by| Timestamp::from_millis(time.as_millis() - by);
    let end = NOW.saturating_add(6 * HOUR);
    let skew = 300_000;
    assert!(verify_at(&certificate, before(NOW, skew)).is_ok());
    assert!(verify_at(&certificate, Timestamp::from_millis(end.as_millis() + skew)).is_ok());
    let early = before(NOW, skew + 1);
    assert_eq!(
        verify_at(&certificate, early),
        Err(CertificateError::NotYetValid { not_before: NOW, now: early })
    );
    let late = Timestamp::from_millis(end.as_millis() + skew + 1);
    assert_eq!(
        verify_at(&certificate, late),
        Err(CertificateError::Expired { not_after: end, now: late })
    );
}

#[test]
fn lifetime_is_bounded_on_both_sides() {
    let lasting = |time| verdict(Claims { not_after: NOW.saturating_add(time), ..claims() });
    assert!(lasting(MAX_LIFETIME).is_ok());
    assert_eq!(lasting(MAX_LIFETIME + Duration::from_secs(1)), Err(CertificateError::BadLifetime));
    assert_eq!(lasting(Duration::ZERO), Err(CertificateError::BadLifetime));
    let backwards = Claims { not_after: Timestamp::from_millis(0), ..claims() };
    assert_eq!(verdict(backwards), Err(CertificateError::BadLifetime));
}

#[test]
fn key_of_another_role_network_or_age_is_refused() {
    assert_eq!(
        verdict(Claims { role: Role::Coordinator, ..claims() }),
        Err(CertificateError::WrongRole { expected: Role::Node, found: Role::Coordinator })
    );
    let elsewhere: Origin = "https://other.example".parse().unwrap();
    assert_eq!(
        verdict(Claims { origin: elsewhere.clone(), ..claims() }),
        Err(CertificateError::WrongOrigin { expected: origin(), found: elsewhere })
    );
    assert_eq!(
        verdict(Claims { serial: 4, ..claims() }),
        Err(CertificateError::OldSerial { serial: 4, minimum: 5 })
    );
}

#[test]
fn key_of_small_order_is_refused() {
    let mut one = [0; 32];
    one[0] = 1;
    for weak in [[0; 32], one] {
        let sealing_key = SealingPublicKey::from_bytes(weak);
        assert_eq!(
            verdict(Claims { sealing_key, ..claims() }),
            Err(CertificateError::WeakSealingKey)
        );
    }
}

#[test]
fn key_for_another_suite_is_refused_by_name() {
    let certificate = SignedCertificate::sign(&identity(), claims());
    let mut bytes = certificate.encoded().to_vec();
    bytes[50] = 0x7a;
    assert_eq!(
        SignedCertificate::decode(&bytes),
        Err(CertificateError::UnknownSuite { kem: 0x7a, kdf: 1, aead: 2 })
    );
}

#[test]
fn certificate_signed_by_somebody_else_is_refused() {
    let honest = SignedCertificate::sign(&identity(), claims());
    let thief = SignedCertificate::sign(&Identity::generate(), claims());
    let forged = [honest.signed_part(), thief.parts().1].concat();
    let forged = SignedCertificate::decode(&forged).unwrap();
    assert_eq!(verify_at(&forged, NOW), Err(CertificateError::BadSignature));
}

#[test]
fn origins_are_bounded() {
    assert!("".parse::<Origin>().is_err());
    assert!("a b".parse::<Origin>().is_err());
    assert!("a\n".parse::<Origin>().is_err());
    assert!("a".repeat(256).parse::<Origin>().is_err());
    assert!("a".repeat(255).parse::<Origin>().is_ok());
    assert_eq!(Origin::from(identity().public()).as_str(), identity().public().to_string());
}

proptest! {
    #[test]
    fn decoding_anything_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        cut in 0_usize..140,
    ) {
        let _ = SignedCertificate::decode(&bytes);
        let certificate = SignedCertificate::sign(&identity(), claims());
        let spliced = [&certificate.encoded()[..cut], &bytes].concat();
        if let Ok(decoded) = SignedCertificate::decode(&spliced) {
            prop_assert!(verify_at(&decoded, NOW).is_err());
        }
    }
}
