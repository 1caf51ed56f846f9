//! What holds for anything that a peer sends; shared by the tests and the fuzz targets.

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::sync::LazyLock;

use iris_core::Timestamp;
use iris_crypto::account_key::AccountIndex;
use iris_crypto::certificate::{CertificateHash, Expectation, Origin, Role};
use iris_crypto::hello::{Hello, Welcome, verify_hello, verify_welcome};
use iris_crypto::token::TokenHash;
use iris_crypto::{
    AccountKey, ApiToken, HopRoot, Identity, PublicIdentity, RecordKey, SealingKey,
    SealingPublicKey, Secret, Signature, SignedCertificate, hpke,
};

/// Keys, tokens and hashes: each text is refused, or is the only one of its value.
pub(crate) fn text(text: &str) {
    exact::<PublicIdentity>(text);
    exact::<Signature>(text);
    exact::<TokenHash>(text);
    exact::<AccountIndex>(text);
    exact::<Origin>(text);
    exact::<SignedCertificate>(text);
    if let Ok(token) = text.parse::<ApiToken>() {
        assert_eq!(*token.reveal(), text);
    }
    if let Ok(key) = text.parse::<AccountKey>() {
        // Separators are the typist's business.
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        assert_eq!(format!("{:#}", key.reveal()), digits);
    }
}

/// A certificate is refused, or has one encoding; without its signer's key it never verifies.
pub(crate) fn certificate(bytes: &[u8]) {
    let Ok(certificate) = SignedCertificate::decode(bytes) else { return };
    assert_eq!(certificate.encoded(), bytes);
    let claims = certificate.unverified_claims().clone();
    let expected = Expectation {
        role: claims.role,
        now: claims.not_before,
        min_serial: 0,
        origin: &claims.origin,
    };
    if claims.identity == PARTIES.node.public() {
        // Nothing is signed here but what this module signs itself.
        let verified = certificate.verify(&expected).is_ok();
        assert_eq!(verified, bytes == PARTIES.certificate.encoded());
    } else {
        let _ = certificate.verify(&expected);
    }
}

/// Nothing opens, and no signature holds, but what was sealed and signed.
pub(crate) fn sealed(bytes: &[u8]) {
    let parties = &*PARTIES;
    let key = RecordKey::new(&Secret::from_bytes([5; 32]));
    assert!(key.open("task/1", bytes).is_err());

    let (number, sealed) = bytes.split_at(bytes.len().min(1));
    let number = u64::from(number.first().copied().unwrap_or(0) % 4);
    let (_, mut root) = HopRoot::initiate(&parties.sealing.public(), b"session").expect("a key");
    let mut channel = root.channel(number).expect("a new assignment");
    assert!(channel.opener.open(number, b"header", sealed).is_err());
    let (own, rest) = bytes.split_at(bytes.len().min(32));
    if let Ok(own) = <[u8; 32]>::try_from(own) {
        let _ = HopRoot::initiate(&SealingPublicKey::from_bytes(own), b"session");
        if let Ok(mut root) = HopRoot::accept(&parties.sealing, &own, b"session") {
            let mut channel = root.channel(number).expect("a new assignment");
            assert!(channel.opener.open(0, b"header", rest).is_err());
            // What did not open once ends the channel.
            assert!(channel.opener.open(0, b"header", rest).is_err());
        }
        if let Ok(mut context) = hpke::setup_receiver(&parties.sealing, &own, b"info") {
            assert!(context.open(b"aad", rest).is_err());
        }
        if let Ok(identity) = PublicIdentity::from_bytes(own) {
            assert_eq!(identity.as_bytes(), &own);
        }
    }
    signature(bytes);
}

fn signature(bytes: &[u8]) {
    let parties = &*PARTIES;
    let Some((signature, session)) = bytes.split_first_chunk::<64>() else { return };
    let signature = Signature::from_bytes(*signature);
    let hash = CertificateHash::from_bytes([4; 32]);
    let hello = Hello { challenge: &[3; 32], origin: &parties.origin, certificate: &hash };
    assert!(verify_hello(&parties.node.public(), &hello, &signature).is_err());
    let welcome = Welcome { node_nonce: &[2; 32], encapsulated: &[3; 32], session };
    assert!(verify_welcome(&parties.node.public(), &welcome, &signature).is_err());
}

struct Parties {
    node: Identity,
    sealing: SealingKey,
    origin: Origin,
    certificate: SignedCertificate,
}

static PARTIES: LazyLock<Parties> = LazyLock::new(|| {
    let node = Identity::from_seed(&Secret::from_bytes([1; 32]));
    let sealing = SealingKey::generate();
    let origin: Origin = "https://iris.example".parse().expect("an origin");
    let now = Timestamp::from_millis(1_700_000_000_000);
    let key = SealingPublicKey::from_bytes([7; 32]);
    let certificate = SignedCertificate::issue(&node, Role::Node, key, &origin, now, 1);
    Parties { node, sealing, origin, certificate }
});

/// Returns the bytes of a certificate that verifies, the same in every run.
pub(crate) fn sound_certificate() -> &'static [u8] {
    PARTIES.certificate.encoded()
}

fn exact<T: FromStr<Err: Debug> + Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text);
    }
}
