use data_encoding::HEXLOWER;
use proptest::prelude::*;
use x25519_dalek::StaticSecret;

use super::*;

struct Vector(serde_json::Value);

impl Vector {
    fn official() -> Self {
        let text = include_str!("../../tests/vectors/hpke-base-x25519-aes256gcm.json");
        Self(serde_json::from_str(text).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        hex(&self.0[name])
    }

    fn key(&self, name: &str) -> SealingKey {
        let bytes: [u8; 32] = self.bytes(name).try_into().unwrap();
        SealingKey::from_secret(StaticSecret::from(bytes))
    }

    fn list(&self, name: &str) -> &[serde_json::Value] {
        self.0[name].as_array().unwrap()
    }

    fn contexts(&self) -> ([u8; 32], SenderContext, ReceiverContext) {
        let (recipient, info) = (self.key("skRm"), self.bytes("info"));
        let (encapsulated, sender) =
            setup_sender_with(&self.key("skEm"), &recipient.public(), &info).unwrap();
        (encapsulated, sender, setup_receiver(&recipient, &encapsulated, &info).unwrap())
    }
}

fn hex(value: &serde_json::Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

#[test]
fn official_vector_gives_its_keys() {
    let vector = Vector::official();
    let (encapsulated, ..) = vector.contexts();
    assert_eq!(encapsulated[..], vector.bytes("enc"));
    assert_eq!(vector.key("skRm").public().as_bytes()[..], vector.bytes("pkRm"));
    let dh = vector.key("skEm").agree(vector.key("skRm").public().as_bytes()).unwrap();
    let shared = shared_secret(dh.as_bytes(), &encapsulated, &vector.key("skRm").public());
    assert_eq!(shared[..], vector.bytes("shared_secret"));
}

#[test]
fn official_vector_seals_and_opens() {
    let vector = Vector::official();
    let (_, mut sender, mut receiver) = vector.contexts();
    for message in vector.list("encryptions") {
        let number = message["seq"].as_u64().unwrap();
        (sender.0.messages, receiver.0.messages) = (number, number);
        let (aad, text, sealed) = (hex(&message["aad"]), hex(&message["pt"]), hex(&message["ct"]));
        assert_eq!(sender.seal(&aad, &text).unwrap(), sealed, "message {number}");
        assert_eq!(receiver.open(&aad, &sealed).unwrap(), text, "message {number}");
    }
}

#[test]
fn official_vector_exports() {
    let vector = Vector::official();
    let (_, sender, receiver) = vector.contexts();
    for export in vector.list("exports") {
        let context = hex(&export["exporter_context"]);
        let expected = hex(&export["exported_value"]);
        let mut secret = vec![0; expected.len()];
        sender.export(&context, &mut secret);
        assert_eq!(secret, expected);
        receiver.export(&context, &mut secret);
        assert_eq!(secret, expected);
    }
}

#[test]
fn keys_of_small_order_are_refused_on_both_sides() {
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    for weak in [[0; 32], one, minus_one] {
        let sealing = setup_sender(&SealingPublicKey::from_bytes(weak), b"");
        assert_eq!(sealing.err(), Some(HpkeError::WeakKey));
        let opening = setup_receiver(&SealingKey::generate(), &weak, b"");
        assert_eq!(opening.err(), Some(HpkeError::WeakKey));
    }
}

#[test]
fn messages_open_once_and_in_order() {
    let (_, mut sender, mut receiver) = Vector::official().contexts();
    let first = sender.seal(b"", b"first").unwrap();
    let second = sender.seal(b"", b"second").unwrap();
    assert_eq!(receiver.open(b"", &second), Err(HpkeError::Rejected));
    assert_eq!(receiver.open(b"", &first).unwrap(), b"first");
    assert_eq!(receiver.open(b"", &first), Err(HpkeError::Rejected));
    assert_eq!(receiver.open(b"", &second).unwrap(), b"second");
}

#[test]
fn context_stops_before_its_numbers_wrap() {
    let (_, mut sender, mut receiver) = Vector::official().contexts();
    (sender.0.messages, receiver.0.messages) = (u64::MAX, u64::MAX);
    assert_eq!(sender.seal(b"", b""), Err(HpkeError::Exhausted));
    assert_eq!(receiver.open(b"", &[0; 16]), Err(HpkeError::Exhausted));
}

#[test]
fn every_flipped_bit_is_refused() {
    let recipient = SealingKey::generate();
    let (encapsulated, mut sender) = setup_sender(&recipient.public(), b"info").unwrap();
    let sealed = sender.seal(b"aad", b"text").unwrap();
    let opens = |encapsulated: &[u8; 32], info: &[u8], aad: &[u8], sealed: &[u8]| {
        setup_receiver(&recipient, encapsulated, info)
            .and_then(|mut receiver| receiver.open(aad, sealed))
            .is_ok()
    };
    let flipped = |bytes: &[u8], bit: usize| {
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    };
    assert!(opens(&encapsulated, b"info", b"aad", &sealed));
    for bit in 0..256 {
        // The curve ignores the top bit of a key, the key schedule does not.
        let altered = flipped(&encapsulated, bit).try_into().unwrap();
        assert!(!opens(&altered, b"info", b"aad", &sealed), "bit {bit} of the key");
    }
    for bit in 0..32 {
        assert!(!opens(&encapsulated, &flipped(b"info", bit), b"aad", &sealed));
    }
    for bit in 0..24 {
        assert!(!opens(&encapsulated, b"info", &flipped(b"aad", bit), &sealed));
    }
    for bit in 0..sealed.len() * 8 {
        assert!(!opens(&encapsulated, b"info", b"aad", &flipped(&sealed, bit)), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn opening_anything_never_panics(
        encapsulated: [u8; 32],
        sealed in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let receiver = setup_receiver(&SealingKey::generate(), &encapsulated, b"");
        if let Ok(mut receiver) = receiver {
            prop_assert_eq!(receiver.open(b"", &sealed), Err(HpkeError::Rejected));
        }
    }
}
