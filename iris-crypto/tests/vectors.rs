//! What others computed from the documentation alone comes out the same here.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use data_encoding::HEXLOWER;
use iris_core::Timestamp;
use iris_crypto::certificate::{Claims, Expectation, Origin, Role};
use iris_crypto::hello::{Hello, Welcome, sign_hello, sign_welcome, verify_hello, verify_welcome};
use iris_crypto::{Identity, RecordKey, SealingPublicKey, Secret, SignedCertificate};
use serde_json::Value;

fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn hex32(value: &Value) -> [u8; 32] {
    hex(value).try_into().unwrap()
}

fn seconds(value: &Value) -> Timestamp {
    Timestamp::from_millis(value.as_u64().unwrap() * 1000)
}

fn identities() -> (Value, Identity, Identity) {
    let vector: Value = serde_json::from_str(include_str!("vectors/identity.json")).unwrap();
    let identity =
        |name: &str| Identity::from_seed(&Secret::from_bytes(hex32(&vector[name]["seed"])));
    let (node, coordinator) = (identity("node"), identity("coordinator"));
    (vector, node, coordinator)
}

#[test]
fn seed_gives_the_key_and_the_node_id() {
    let (vector, node, coordinator) = identities();
    assert_eq!(node.public().to_string(), vector["node"]["public"]);
    assert_eq!(node.node_id().as_str(), vector["node"]["id"]);
    assert_eq!(coordinator.public().to_string(), vector["coordinator"]["public"]);
}

#[test]
fn claims_give_the_certificate() {
    let (vector, node, _) = identities();
    let vector = &vector["certificate"];
    let origin: Origin = vector["origin"].as_str().unwrap().parse().unwrap();
    let claims = Claims {
        role: Role::Node,
        identity: node.public(),
        sealing_key: SealingPublicKey::from_bytes(hex32(&vector["sealing_key"])),
        not_before: seconds(&vector["not_before"]),
        not_after: seconds(&vector["not_after"]),
        serial: vector["serial"].as_u64().unwrap(),
        origin: origin.clone(),
        extensions: Vec::new(),
    };
    let certificate = SignedCertificate::sign(&node, claims);
    assert_eq!(certificate.encoded(), hex(&vector["encoded"]));
    assert_eq!(certificate.hash().to_string(), vector["hash"]);
    let expected = Expectation {
        role: Role::Node,
        now: seconds(&vector["not_before"]),
        min_serial: 0,
        origin: &origin,
    };
    assert_eq!(certificate.verify(&expected).unwrap().node_id(), node.node_id());
}

#[test]
fn greetings_give_the_signatures() {
    let (vector, node, coordinator) = identities();
    let certificate = SignedCertificate::decode(&hex(&vector["certificate"]["encoded"])).unwrap();
    let (challenge, nonce) =
        (hex32(&vector["hello"]["challenge"]), hex32(&vector["welcome"]["node_nonce"]));
    let encapsulated = hex32(&vector["welcome"]["encapsulated"]);
    let hello = Hello {
        challenge: &challenge,
        origin: &certificate.unverified_claims().origin,
        certificate: &certificate.hash(),
    };
    let signature = sign_hello(&node, &hello);
    assert_eq!(signature.as_bytes()[..], hex(&vector["hello"]["signature"]));
    assert_eq!(verify_hello(&node.public(), &hello, &signature), Ok(()));

    let welcome = Welcome {
        node_nonce: &nonce,
        encapsulated: &encapsulated,
        session: vector["welcome"]["session"].as_str().unwrap().as_bytes(),
    };
    let signature = sign_welcome(&coordinator, &welcome);
    assert_eq!(signature.as_bytes()[..], hex(&vector["welcome"]["signature"]));
    assert_eq!(verify_welcome(&coordinator.public(), &welcome, &signature), Ok(()));
}

#[test]
fn record_sealed_elsewhere_opens() {
    let vector: Value = serde_json::from_str(include_str!("vectors/record.json")).unwrap();
    let key = RecordKey::new(&Secret::from_bytes(hex32(&vector["key"])));
    let text = key.open(vector["place"].as_str().unwrap(), &hex(&vector["sealed"]));
    assert_eq!(text.unwrap(), hex(&vector["text"]));
}
