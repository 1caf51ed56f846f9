//! What is sealed here opens with another implementation of HPKE, and the other way round.

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use iris_crypto::hpke::{setup_receiver, setup_sender};
use iris_crypto::{SealingKey, SealingPublicKey, random_bytes};

const EXCHANGES: u8 = 200;

/// Bytes that differ from exchange to exchange in length and content.
fn bytes(exchange: u8, factor: usize, limit: usize) -> Vec<u8> {
    let pool: [u8; 512] = random_bytes();
    pool[..usize::from(exchange) * factor % limit].to_vec()
}

#[test]
fn another_implementation_opens_what_is_sealed_here() {
    for exchange in 0..EXCHANGES {
        let (secret, public) = X25519HkdfSha256::gen_keypair();
        let public: [u8; 32] = public.to_bytes().into();
        let info = bytes(exchange, 1, 67);
        let (encapsulated, mut ours) =
            setup_sender(&SealingPublicKey::from_bytes(public), &info).unwrap();
        let encapsulated =
            <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&encapsulated).unwrap();
        let mut theirs = hpke::setup_receiver::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &secret,
            &encapsulated,
            &info,
        )
        .unwrap();
        for _ in 0..3 {
            let (aad, text) = (bytes(exchange, 7, 301), bytes(exchange, 3, 512));
            let sealed = ours.seal(&aad, &text).unwrap();
            assert_eq!(theirs.open(&sealed, &aad).unwrap(), text);
        }
        let (mut here, mut there) = (vec![0; 77], vec![0; 77]);
        ours.export(&info, &mut here);
        theirs.export(&info, &mut there).unwrap();
        assert_eq!(here, there);
    }
}

#[test]
fn what_another_implementation_seals_opens_here() {
    for exchange in 0..EXCHANGES {
        let key = SealingKey::generate();
        let info = bytes(exchange, 1, 67);
        let public =
            <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(key.public().as_bytes()).unwrap();
        let (encapsulated, mut theirs) = hpke::setup_sender::<
            AesGcm256,
            HkdfSha256,
            X25519HkdfSha256,
        >(&OpModeS::Base, &public, &info)
        .unwrap();
        let mut ours = setup_receiver(&key, &encapsulated.to_bytes().into(), &info).unwrap();
        for _ in 0..3 {
            let (aad, text) = (bytes(exchange, 7, 301), bytes(exchange, 3, 512));
            let sealed = theirs.seal(&text, &aad).unwrap();
            assert_eq!(ours.open(&aad, &sealed).unwrap(), text);
        }
        let (mut here, mut there) = (vec![0; 32], vec![0; 32]);
        ours.export(b"context", &mut here);
        theirs.export(b"context", &mut there).unwrap();
        assert_eq!(here, there);
    }
}
