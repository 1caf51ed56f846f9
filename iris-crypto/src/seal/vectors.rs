//! `tests/vectors/seal.json`: whole exchanges with every secret shown, and what is refused.
//!
//! Made here, where secrets can be chosen: `IRIS_WRITE_VECTORS=1` writes the file, and otherwise
//! it has to be what is made, byte for byte, and to come out as it says.

use std::path::PathBuf;
use std::time::Duration;

use data_encoding::HEXLOWER;
use hkdf::Hkdf;
use iris_core::Timestamp;
use iris_core::backend::{BackendError, Finish, Operation, Usage};
use serde::Serialize;
use sha2::{Digest, Sha256};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::frame::Kind;
use super::request::{AAD, EXPORT, padded};
use super::sealer::AnswerKeys;
use super::*;
use crate::certificate::{Claims, Expectation, MAX_LIFETIME, Origin, Role};
use crate::{Identity, SealingKey, SealingPublicKey, Secret, SignedCertificate, hpke};
use crate::{VerifiedCertificate, certificate::CertificateError};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_123);
const ABOUT: &str = "Iris Seal v1; the bytes are described in iris-crypto/src/seal/mod.rs. Bytes \
    are hexadecimal, times of certificates in seconds, others in milliseconds. Secrets are \
    SHA-256 of 'iris/vectors/' and a name. In `refused`, a number stands for that record of the \
    exchange, and a text is a record's bytes; an answer is refused with `error` after `events`, \
    or at its end. The clients' errors have the same names.";

#[derive(Serialize)]
struct File {
    about: &'static str,
    node: NodeVector,
    exchanges: Vec<Exchange>,
    refused: Refused,
}

#[derive(Serialize)]
struct NodeVector {
    identity_seed: String,
    identity: String,
    id: String,
    sealing_secret: String,
    sealing_key: String,
    origin: String,
    not_before: u64,
    not_after: u64,
    serial: u64,
    certificate: String,
    certificate_hash: String,
}

#[derive(Serialize)]
struct Exchange {
    name: &'static str,
    request: RequestVector,
    answer: AnswerVector,
}

#[derive(Serialize)]
struct RequestVector {
    task: String,
    model: String,
    issued_at: u64,
    ttl: u64,
    max_tokens: u32,
    shape: u8,
    operation: u8,
    stream: bool,
    body: String,
    header: String,
    padded: String,
    ephemeral_secret: String,
    enc: String,
    ct: String,
    wire: String,
    digest: String,
}

#[derive(Serialize)]
struct AnswerVector {
    secret: String,
    rn: String,
    key: String,
    nonce: String,
    commit: String,
    records: Vec<String>,
    events: Vec<Event>,
    chain: String,
    receipt: String,
    signature: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    Opened,
    Text { text: String },
    Json { json: String },
    Whole { json: String },
    Finished { reason: String, usage: Usage },
    Failed { error: BackendError },
    Receipt { outcome: u8, usage: Usage },
}

#[derive(Serialize)]
struct Refused {
    certificates: Vec<RefusedCertificate>,
    requests: Vec<RefusedRequest>,
    answers: Vec<RefusedAnswer>,
}

#[derive(Serialize)]
struct RefusedCertificate {
    name: &'static str,
    certificate: String,
    now: u64,
    min_serial: u64,
    error: String,
}

#[derive(Serialize)]
struct RefusedRequest {
    name: &'static str,
    wire: String,
    error: String,
}

#[derive(Serialize)]
struct RefusedAnswer {
    name: &'static str,
    exchange: usize,
    records: Vec<Part>,
    events: usize,
    finished: bool,
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Clone, Serialize)]
#[serde(untagged)]
enum Part {
    Of(usize),
    Bytes(String),
}

#[test]
fn vectors_are_what_is_made() {
    let node = Node::new();
    let made = exchanges(&node);
    let refused = Refused {
        certificates: refused_certificates(&node),
        requests: refused_requests(&node, &made),
        answers: refused_answers(&node, &made),
    };
    let exchanges = made.into_iter().map(|made| made.vector).collect();
    let file = File { about: ABOUT, node: node.vector(), exchanges, refused };
    let text = serde_json::to_string_pretty(&file).unwrap() + "\n";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/seal.json");
    if std::env::var_os("IRIS_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(std::fs::read_to_string(path).unwrap() == text, "the vectors are others");
}

// ---------------------------------------------------------------------------- parties

struct Node {
    identity: Identity,
    key: SealingKey,
    origin: Origin,
    certificate: VerifiedCertificate,
}

impl Node {
    fn new() -> Self {
        let identity = Identity::from_seed(&Secret::from_bytes(secret("node identity")));
        let key = sealing_key("node sealing key");
        let origin: Origin = "https://iris.example".parse().unwrap();
        let signed = SignedCertificate::issue(&identity, Role::Node, key.public(), &origin, NOW, 7);
        let expected = Expectation { role: Role::Node, now: NOW, min_serial: 7, origin: &origin };
        let certificate = signed.verify(&expected).unwrap();
        Self { identity, key, origin, certificate }
    }

    fn vector(&self) -> NodeVector {
        let claims = self.certificate.claims();
        NodeVector {
            identity_seed: hex(secret("node identity")),
            identity: self.identity.public().to_string(),
            id: self.identity.node_id().to_string(),
            sealing_secret: hex(secret("node sealing key")),
            sealing_key: hex(self.key.public().as_bytes()),
            origin: claims.origin.to_string(),
            not_before: claims.not_before.as_secs(),
            not_after: claims.not_after.as_secs(),
            serial: claims.serial,
            certificate: hex(self.certificate.certificate().encoded()),
            certificate_hash: self.certificate.certificate().hash().to_string(),
        }
    }
}

fn secret(name: &str) -> [u8; 32] {
    Sha256::new().chain_update("iris/vectors/").chain_update(name).finalize().into()
}

fn sealing_key(name: &str) -> SealingKey {
    SealingKey::from_secret(StaticSecret::from(secret(name)))
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    HEXLOWER.encode(bytes.as_ref())
}

// ---------------------------------------------------------------------------- exchanges

/// A request and its answer, and what makes both again.
struct Made {
    node: VerifiedCertificate,
    terms: Terms,
    prompt: Prompt,
    name: &'static str,
    request: SealedRequest,
    records: Vec<Vec<u8>>,
    vector: Exchange,
}

impl Made {
    /// Returns what opens the answer, ready for its first record.
    fn opener(&self) -> AnswerOpener {
        seal(&self.node, self.name, self.terms.clone(), &self.prompt).1
    }

    /// Returns what sealed the answer, ready for its first frame.
    fn sealer(&self, node: &Node) -> AnswerSealer {
        self.request.open_with(&node.key, secret(&format!("{}: rn", self.name))).unwrap().1
    }
}

fn seal(
    certificate: &VerifiedCertificate,
    name: &str,
    terms: Terms,
    prompt: &Prompt,
) -> (SealedRequest, AnswerOpener) {
    let task = secret(&format!("{name}: task"))[..16].try_into().unwrap();
    let ephemeral = sealing_key(&format!("{name}: ephemeral"));
    SealedRequest::seal_with(certificate, terms, prompt, task, &ephemeral).unwrap()
}

const CHAT: &str =
    r#"{"model":"org/model-7b","messages":[{"role":"user","content":"Où est Paris?"}]}"#;

fn exchanges(node: &Node) -> Vec<Made> {
    let chat = Prompt { operation: Operation::Chat, stream: true, body: CHAT.as_bytes().into() };
    let whole = Prompt {
        operation: Operation::Completion,
        stream: false,
        body: r#"{"model":"org/model-7b","prompt":"Paris is"}"#.into(),
    };
    let streamed = |sealer: &mut AnswerSealer, out: &mut Vec<u8>| {
        let mut pieces = Pieces::new(sealer.shape());
        pieces.push_text("Paris");
        pieces.push_text(" est en France: 🇫🇷");
        sealer.seal(&pieces, out).unwrap();
        let object = object();
        let mut rest = object.as_bytes();
        while !rest.is_empty() {
            pieces.clear();
            let taken = pieces.room().min(rest.len()).min(300);
            pieces.push(Kind::Json, taken < rest.len(), &rest[..taken]);
            rest = &rest[taken..];
            sealer.seal(&pieces, out).unwrap();
        }
        sealer.end(&finish(), out).unwrap();
        sealer.seal(&Pieces::new(sealer.shape()), out).unwrap();
        (Outcome::Complete, finish().usage)
    };
    vec![
        exchange(node, "streamed, shape off", Shape::Off, chat.clone(), streamed),
        exchange(node, "streamed, shape paced", Shape::Paced, chat.clone(), |sealer, out| {
            sealer.seal(&Pieces::new(Shape::Paced), out).unwrap();
            streamed(sealer, out)
        }),
        exchange(node, "failed, shape paced", Shape::Paced, chat, |sealer, out| {
            let mut pieces = Pieces::new(Shape::Paced);
            pieces.push_text("Par");
            sealer.seal(&pieces, out).unwrap();
            sealer.fault(&rejected(), out).unwrap();
            (Outcome::Failed, Usage::default())
        }),
        exchange(node, "whole, shape off", Shape::Off, whole, |sealer, out| {
            let mut pieces = Pieces::new(Shape::Off);
            pieces.push_whole(br#"{"choices":[{"text":" in France."}]}"#);
            sealer.seal(&pieces, out).unwrap();
            sealer.end(&finish(), out).unwrap();
            (Outcome::Complete, finish().usage)
        }),
    ]
}

fn object() -> String {
    format!(r#"{{"tool_calls":[{{"function":{{"arguments":"{}"}}}}]}}"#, "x".repeat(500))
}

fn finish() -> Finish {
    let usage = Usage { prompt_tokens: 100, completion_tokens: 65 };
    Finish { reason: "stop".to_owned(), usage }
}

fn rejected() -> BackendError {
    BackendError::Rejected {
        status: 400,
        code: Some("context_length_exceeded".to_owned()),
        param: Some("messages".to_owned()),
        message: "The prompt is too long. ".repeat(12),
    }
}

fn exchange(
    node: &Node,
    name: &'static str,
    shape: Shape,
    prompt: Prompt,
    answer: impl FnOnce(&mut AnswerSealer, &mut Vec<u8>) -> (Outcome, Usage),
) -> Made {
    let terms =
        Terms { max_tokens: 512, shape, ..Terms::new("org/model-7b".parse().unwrap(), NOW) };
    let (request, mut opener) = seal(&node.certificate, name, terms.clone(), &prompt);
    let rn = secret(&format!("{name}: rn"));
    let (arrived, mut sealer) = request.open_with(&node.key, rn).unwrap();
    assert_eq!(arrived, prompt);
    let mut out = Vec::new();
    sealer.opening(&mut out);
    let (outcome, usage) = answer(&mut sealer, &mut out);
    let receipt = sealer.finish(&node.identity, outcome, usage, &mut out).unwrap();
    receipt.write_record(&mut out);
    let (events, end) = opened_by(&mut opener, &out);
    assert_eq!(end, None);
    let request_vector = request_vector(node, name, &request, &prompt);
    let answer = answer_vector(node, &request, rn, &out, &events, &receipt);
    let records = split(&out);
    let vector = Exchange { name, request: request_vector, answer };
    Made { node: node.certificate.clone(), terms, prompt, name, request, records, vector }
}

fn request_vector(
    node: &Node,
    name: &str,
    request: &SealedRequest,
    prompt: &Prompt,
) -> RequestVector {
    let header = request.header();
    let wire = request.wire();
    let enc = request.encapsulated();
    let header_len = wire.windows(32).position(|window| window == enc).unwrap();
    assert_eq!(header.certificate, node.certificate.certificate().hash());
    RequestVector {
        task: hex(header.task),
        model: header.terms.model.to_string(),
        issued_at: header.terms.issued_at.as_millis(),
        ttl: u64::try_from(header.terms.ttl.as_millis()).unwrap(),
        max_tokens: header.terms.max_tokens,
        shape: header.terms.shape.number(),
        operation: match prompt.operation {
            Operation::Chat => 1,
            Operation::Completion => 2,
            Operation::Embedding => 3,
        },
        stream: prompt.stream,
        body: String::from_utf8(prompt.body.to_vec()).unwrap(),
        header: hex(&wire[..header_len]),
        padded: hex(&*padded(prompt).unwrap()),
        ephemeral_secret: hex(secret(&format!("{name}: ephemeral"))),
        enc: hex(enc),
        ct: hex(&wire[header_len + 36..]),
        wire: hex(wire),
        digest: hex(request.digest()),
    }
}

/// Says what an answer is, with its keys derived once more, by the description alone.
fn answer_vector(
    node: &Node,
    request: &SealedRequest,
    rn: [u8; 32],
    bytes: &[u8],
    events: &[AnswerEvent],
    receipt: &SignedReceipt,
) -> AnswerVector {
    let enc = request.encapsulated();
    let wire = request.wire();
    let header_len = wire.windows(32).position(|window| window == enc).unwrap();
    let context = hpke::setup_receiver(&node.key, &enc, &wire[..header_len]).unwrap();
    let mut exported = Zeroizing::new([0; 32]);
    context.export(EXPORT, &mut *exported);
    let prk = Hkdf::<Sha256>::new(Some(&[enc, rn].concat()), &exported[..]);
    let (mut key, mut nonce, mut commit) = ([0; 32], [0; 12], [0; 32]);
    prk.expand(b"key", &mut key).unwrap();
    prk.expand(b"nonce", &mut nonce).unwrap();
    prk.expand(b"commit", &mut commit).unwrap();
    assert_eq!(AnswerKeys::derive(&enc, &rn, &exported).commit, commit);
    let encoded = receipt.encode();
    let (said, signature) = encoded.split_last_chunk::<64>().unwrap();
    AnswerVector {
        secret: hex(*exported),
        rn: hex(rn),
        key: hex(key),
        nonce: hex(nonce),
        commit: hex(commit),
        records: split(bytes).iter().map(hex).collect(),
        events: events.iter().map(event).collect(),
        chain: hex(receipt.receipt().chain),
        receipt: hex(said),
        signature: hex(signature),
    }
}

fn event(event: &AnswerEvent) -> Event {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match event {
        AnswerEvent::Opened => Event::Opened,
        AnswerEvent::Text(text) => Event::Text { text: text.clone() },
        AnswerEvent::Json(json) => Event::Json { json: text(json) },
        AnswerEvent::Whole(json) => Event::Whole { json: text(json) },
        AnswerEvent::Finished(finish) => {
            Event::Finished { reason: finish.reason.clone(), usage: finish.usage }
        }
        AnswerEvent::Failed(error) => Event::Failed { error: error.clone() },
        AnswerEvent::Receipt(receipt) => Event::Receipt {
            outcome: match receipt.receipt().outcome {
                Outcome::Complete => 1,
                Outcome::Failed => 2,
            },
            usage: receipt.receipt().usage,
        },
    }
}

/// Cuts records apart.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some((length, _)) = bytes.split_first_chunk::<4>() {
        let (record, rest) = bytes.split_at(4 + u32::from_be_bytes(*length) as usize);
        records.push(record.to_vec());
        bytes = rest;
    }
    records
}

/// Opens what a client was sent; returns what it learned, and the error and its reason.
fn opened_by(
    opener: &mut AnswerOpener,
    bytes: &[u8],
) -> (Vec<AnswerEvent>, Option<(String, Option<String>)>) {
    let mut reader = RecordReader::new();
    let mut events = Vec::new();
    for part in bytes.chunks(100) {
        reader.push(part);
        loop {
            match reader.pop() {
                Ok(None) => break,
                Err(RecordTooLong) => return (events, Some(("RecordTooLong".to_owned(), None))),
                Ok(Some(record)) => match opener.handle_record(&record) {
                    Ok(more) => events.extend(more),
                    Err(error) => return (events, Some(named(error))),
                },
            }
        }
    }
    let end = match opener.progress() {
        Progress::Receipted => None,
        Progress::Ended => Some(AnswerError::ReceiptMissing),
        _ => Some(AnswerError::Truncated),
    };
    (events, end.map(named))
}

fn named(error: AnswerError) -> (String, Option<String>) {
    match error {
        AnswerError::ReceiptDisputed(reason) => {
            ("ReceiptDisputed".to_owned(), Some(variant(&reason)))
        }
        other => (variant(&other), None),
    }
}

/// Returns the name of an error's variant.
fn variant(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    text.split([' ', '(', '{']).next().unwrap().to_owned()
}

// ---------------------------------------------------------------------------- refused

fn refused_certificates(node: &Node) -> Vec<RefusedCertificate> {
    let good = node.certificate.certificate().clone();
    let claims = good.unverified_claims().clone();
    let now = NOW.as_secs();
    let signed =
        |claims: Claims| SignedCertificate::sign(&node.identity, claims).encoded().to_vec();
    let hours = |hours: u64| claims.not_before.saturating_add(Duration::from_hours(hours));
    // What no Rust node can say is written into the bytes and signed again.
    let resigned = |at: usize, bytes: &[u8]| {
        let (said, _) = good.encoded().split_last_chunk::<64>().unwrap();
        let mut said = said.to_vec();
        said[at..at + bytes.len()].copy_from_slice(bytes);
        let signature = node.identity.sign(&said);
        [&said[..], signature.as_bytes()].concat()
    };
    let altered = |at: usize| {
        let mut bytes = good.encoded().to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let length = good.encoded().len();
    let another = sealing_key("another sealing key").public();
    let cases = [
        ("another version", resigned(14, b"9"), now, 0),
        ("a coordinator's", signed(Claims { role: Role::Coordinator, ..claims.clone() }), now, 0),
        ("an unknown role", resigned(16, &[3]), now, 0),
        ("an identity of small order", resigned(17, &[0; 32]), now, 0),
        ("another suite", resigned(49, &[0x64, 0x7a]), now, 0),
        ("a sealing key that is zero", resigned(55, &[0; 32]), now, 0),
        (
            "a sealing key of small order",
            signed(Claims {
                sealing_key: SealingPublicKey::from_bytes(LOW_ORDER),
                ..claims.clone()
            }),
            now,
            0,
        ),
        (
            "of another network",
            signed(Claims {
                origin: "https://iris.example.net".parse().unwrap(),
                ..claims.clone()
            }),
            now,
            0,
        ),
        ("lasts for 25 hours", signed(Claims { not_after: hours(25), ..claims.clone() }), now, 0),
        ("ends as it begins", signed(Claims { not_after: hours(0), ..claims.clone() }), now, 0),
        ("begins in 301 seconds", good.encoded().to_vec(), now - 301, 0),
        ("ended 301 seconds ago", good.encoded().to_vec(), claims.not_after.as_secs() + 301, 0),
        ("rolled back", good.encoded().to_vec(), now, 8),
        (
            "with another key put in",
            {
                let mut bytes = good.encoded().to_vec();
                bytes[55..87].copy_from_slice(another.as_bytes());
                bytes
            },
            now,
            0,
        ),
        ("with another signature", altered(length - 1), now, 0),
        ("cut off", good.encoded()[..length - 1].to_vec(), now, 0),
        ("with a byte behind it", [good.encoded(), &[0]].concat(), now, 0),
    ];
    assert_eq!(MAX_LIFETIME, Duration::from_hours(24));
    let refused = |(name, bytes, now, min_serial): (_, Vec<u8>, u64, u64)| {
        let now_ms = Timestamp::from_millis(now * 1000);
        let expected =
            Expectation { role: Role::Node, now: now_ms, min_serial, origin: &node.origin };
        let verified = SignedCertificate::decode(&bytes).and_then(|it| it.verify(&expected));
        let error: CertificateError = verified.expect_err(name);
        let error = variant(&error);
        RefusedCertificate { name, certificate: hex(bytes), now, min_serial, error }
    };
    cases.into_iter().map(refused).collect()
}

/// A point of order 8.
const LOW_ORDER: [u8; 32] = [
    0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
    0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
];

fn refused_requests(node: &Node, made: &[Made]) -> Vec<RefusedRequest> {
    let made = &made[0];
    let wire = made.request.wire().to_vec();
    let enc = made.request.encapsulated();
    let header_len = wire.windows(32).position(|window| window == enc).unwrap();
    let altered = |at: usize| {
        let mut wire = wire.clone();
        wire[at] ^= 1;
        wire
    };
    let replaced = |at: usize, bytes: &[u8]| {
        let mut wire = wire.clone();
        wire[at..at + bytes.len()].copy_from_slice(bytes);
        wire
    };
    // Sealed as it should be, and padded to a size that is none.
    let padding = |text: &[u8]| {
        let ephemeral = sealing_key("refused: ephemeral");
        let (enc, mut context) =
            hpke::setup_sender_with(&ephemeral, &node.key.public(), &wire[..header_len]).unwrap();
        let sealed = context.seal(AAD, text).unwrap();
        let length = u32::try_from(sealed.len()).unwrap().to_be_bytes();
        [&wire[..header_len], &enc, &length, &sealed].concat()
    };
    let text = padded(&made.prompt).unwrap();
    let mut top_bit = enc;
    top_bit[31] ^= 0x80;
    let cases = [
        ("another version", replaced(10, b"2")),
        ("not sealed to a node", altered(12)),
        ("another task", altered(13)),
        ("another certificate", altered(29)),
        ("another model", altered(63)),
        ("another time", altered(header_len - 10)),
        ("another limit of tokens", altered(header_len - 2)),
        ("good for longer than ten minutes", replaced(header_len - 9, &600_001_u32.to_be_bytes())),
        ("another shape", replaced(header_len - 1, &[1])),
        ("an unknown shape", replaced(header_len - 1, &[3])),
        ("another encapsulated key", altered(header_len)),
        ("a second spelling of the key", replaced(header_len, &top_bit)),
        ("an encapsulated key of small order", replaced(header_len, &LOW_ORDER)),
        ("another length", altered(header_len + 35)),
        ("an altered text", altered(header_len + 36)),
        ("an altered tag", altered(wire.len() - 1)),
        ("cut off", wire[..wire.len() - 1].to_vec()),
        ("with a byte behind it", [&wire[..], &[0]].concat()),
        ("padded to a size that is none", padding(&[&text[..], &[0; 64]].concat())),
        ("not padded", padding(&text[..2 + made.prompt.body.len()])),
        ("without an operation", padding(&[&[4], &text[1..]].concat())),
    ];
    let refused = |(name, wire): (_, Vec<u8>)| {
        let opened = SealedRequest::decode(wire.clone().into()).and_then(|it| it.open(&node.key));
        let error = variant(&opened.map(|(prompt, _)| prompt).expect_err(name));
        RefusedRequest { name, wire: hex(wire), error }
    };
    cases.into_iter().map(refused).collect()
}

#[allow(clippy::too_many_lines, reason = "a list of cases, and what they are made with")]
fn refused_answers(node: &Node, made: &[Made]) -> Vec<RefusedAnswer> {
    let (off, paced) = (&made[0], &made[1]);
    // Opening, text, two frames of an object, end, dummy, last frame, receipt.
    assert_eq!(off.records.len(), 8);
    let whole: Vec<_> = (0..8).map(Part::Of).collect();
    let edited = |edit: &dyn Fn(&mut Vec<Part>)| {
        let mut parts = whole.clone();
        edit(&mut parts);
        parts
    };
    let bytes = |record: &[u8]| Part::Bytes(hex(record));
    let altered = |record: usize, at: usize| {
        let mut bytes = off.records[record].clone();
        bytes[at] ^= 1;
        edited(&|parts| parts[record] = Part::Bytes(hex(&bytes)))
    };
    let relabelled = |record: usize, kind: u8| {
        let mut bytes = off.records[record].clone();
        bytes[4] = kind;
        edited(&|parts| parts[record] = Part::Bytes(hex(&bytes)))
    };
    // Frames of a node that does not keep to the rules, behind the opening.
    let lied = |texts: &[&[u8]]| {
        let mut sealer = off.sealer(node);
        let mut out = Vec::new();
        for text in texts {
            let pieces = Pieces { text: text.to_vec(), shape: Shape::Off };
            sealer.append(&pieces, false, &mut out).unwrap();
        }
        [Part::Of(0)].into_iter().chain(split(&out).iter().map(hex).map(Part::Bytes)).collect()
    };
    let ended = |identity: &Identity, outcome, usage, chain: Option<[u8; 32]>| {
        let mut sealer = off.sealer(node);
        let mut out = Vec::new();
        sealer.end(&finish(), &mut out).unwrap();
        sealer.chain = chain.unwrap_or(sealer.chain);
        sealer.finish(identity, outcome, usage, &mut out).unwrap().write_record(&mut out);
        [Part::Of(0)].into_iter().chain(split(&out).iter().map(hex).map(Part::Bytes)).collect()
    };
    let mut other_end = off.sealer(node);
    let mut end_of_nothing = Vec::new();
    other_end.append(&Pieces::new(Shape::Off), false, &mut Vec::new()).unwrap();
    other_end.end(&finish(), &mut end_of_nothing).unwrap();
    let behind_the_end = {
        let mut sealer = off.sealer(node);
        let mut out = Vec::new();
        sealer.end(&finish(), &mut out).unwrap();
        let mut pieces = Pieces::new(Shape::Off);
        pieces.push_text("more");
        sealer.seal(&pieces, &mut out).unwrap();
        [Part::Of(0)].into_iter().chain(split(&out).iter().map(hex).map(Part::Bytes)).collect()
    };
    let short_frame = {
        let mut sealer = paced.sealer(node);
        let mut out = Vec::new();
        sealer.append(&Pieces::new(Shape::Off), false, &mut out).unwrap();
        vec![Part::Of(0), bytes(&out)]
    };
    let another = Identity::from_seed(&Secret::from_bytes(secret("another identity")));
    let usage = finish().usage;
    let less = Usage { completion_tokens: 64, ..usage };
    let mut cut = off.records[7].clone();
    cut.truncate(cut.len() - 1);
    let mut shorter = cut.clone();
    shorter[..4].copy_from_slice(&u32::try_from(cut.len() - 4).unwrap().to_be_bytes());
    let record = |kind: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len() + 1).unwrap().to_be_bytes();
        bytes(&[&length[..], &[kind], payload].concat())
    };
    let cases: Vec<(&'static str, usize, Vec<Part>)> = vec![
        ("other random bytes", 0, altered(0, 5)),
        ("another commitment", 0, altered(0, 40)),
        ("the opening of another answer", 0, edited(&|all| all[0] = bytes(&paced.records[0]))),
        ("a short opening", 0, vec![record(1, &[0; 31])]),
        ("two openings", 0, edited(&|all| all.insert(1, Part::Of(0)))),
        ("no opening", 0, whole[1..].to_vec()),
        ("nothing", 0, vec![]),
        ("plain JSON in place of an answer", 0, vec![bytes(b"{\"choices\":[]}")]),
        ("plain JSON in a frame", 0, vec![Part::Of(0), record(2, b"{\"choices\":[]}")]),
        ("an altered frame", 0, altered(1, 8)),
        ("an altered tag", 0, altered(2, off.records[2].len() - 1)),
        ("a frame without a tag", 0, edited(&|all| all[1] = record(2, &[0; 15]))),
        ("a frame left out", 0, edited(&|all| drop(all.remove(2)))),
        ("the end left out", 0, edited(&|all| drop(all.remove(4)))),
        ("a frame twice", 0, edited(&|all| all.insert(1, Part::Of(1)))),
        ("frames swapped", 0, edited(&|all| all.swap(2, 3))),
        ("a frame of another answer", 0, edited(&|all| all[1] = bytes(&paced.records[1]))),
        ("the last frame in place of another", 0, edited(&|all| all[1] = Part::Of(6))),
        ("the last frame before its time", 0, edited(&|all| drop(all.drain(5..6)))),
        ("a frame as an opening", 0, relabelled(1, 1)),
        ("a frame as a receipt", 0, relabelled(1, 3)),
        ("a frame as an unknown kind", 0, relabelled(1, 9)),
        ("the last frame as a keep-alive", 0, relabelled(6, 0)),
        ("an opening as a frame", 0, relabelled(0, 2)),
        ("cut behind the opening", 0, whole[..1].to_vec()),
        ("cut within an object", 0, whole[..3].to_vec()),
        ("cut before the end", 0, whole[..4].to_vec()),
        ("cut before the end, with the relay's advice", 0, {
            let advice = record(4, br#"{"error":{"message":"the node is gone"}}"#);
            [&whole[..4], &[advice]].concat()
        }),
        ("cut behind the end", 0, whole[..5].to_vec()),
        ("cut behind the last frame", 0, whole[..7].to_vec()),
        ("cut within the receipt", 0, edited(&|all| all[7] = bytes(&cut))),
        ("the receipt before the last frame", 0, edited(&|all| all.swap(6, 7))),
        ("two last frames", 0, edited(&|all| all.insert(7, Part::Of(6)))),
        ("a short receipt", 0, edited(&|all| all[7] = bytes(&shorter))),
        ("a receipt of another version", 0, altered(7, 18)),
        ("a receipt that says something else", 0, altered(7, 25)),
        ("a receipt with another signature", 0, altered(7, off.records[7].len() - 1)),
        (
            "the receipt of another request",
            0,
            edited(&|all| all[7] = bytes(paced.records.last().unwrap())),
        ),
        ("a receipt for fewer tokens", 0, ended(&node.identity, Outcome::Complete, less, None)),
        ("a receipt for a failure", 0, ended(&node.identity, Outcome::Failed, usage, None)),
        ("a receipt for other frames", 0, {
            ended(&node.identity, Outcome::Complete, usage, Some([0; 32]))
        }),
        ("the receipt of another node", 0, ended(&another, Outcome::Complete, usage, None)),
        ("an end of another text", 0, {
            let end = bytes(&end_of_nothing);
            edited(&|all| *all = vec![Part::Of(0), Part::Of(1), end.clone()])
        }),
        ("a piece behind the end", 0, behind_the_end),
        ("a text that is not UTF-8", 0, lied(&[&[1, 0, 1, 0xff]])),
        ("an unknown piece", 0, lied(&[&[7, 0, 1, 0]])),
        ("an empty piece", 0, lied(&[&[1, 0, 0]])),
        ("a piece cut off", 0, lied(&[&[1, 0, 2, 0x78]])),
        ("something behind the pieces", 0, lied(&[&[1, 0, 1, 0x78, 0, 1]])),
        ("padding in shape off", 0, lied(&[&[0; 8]])),
        ("another piece before one is over", 0, lied(&[&[0x85, 0, 1, 0x7b], &[1, 0, 1, 0x78]])),
        (
            "a receipt's hash before the last frame",
            0,
            lied(&[&[&[6, 0, 32][..], &[0; 32]].concat()]),
        ),
        ("a failure that is none", 0, lied(&[&[3, 0, 2, 0x7b, 0x7d]])),
        ("an end that is too short", 0, lied(&[&[4, 0, 1, 0]])),
        ("a frame without its shape's length", 1, short_frame),
        ("a record that is too long", 0, vec![Part::Of(0), bytes(&66_001_u32.to_be_bytes())]),
        ("a record without a kind", 0, vec![Part::Of(0), bytes(&[0; 4])]),
    ];
    let refused = |(name, exchange, records): (_, usize, Vec<Part>)| {
        let of = &made[exchange];
        let all: Vec<u8> = records
            .iter()
            .flat_map(|part| match part {
                Part::Of(record) => of.records[*record].clone(),
                Part::Bytes(text) => HEXLOWER.decode(text.as_bytes()).unwrap(),
            })
            .collect();
        let (events, end) = opened_by(&mut of.opener(), &all);
        let (error, reason) = end.expect(name);
        let finished = events.iter().any(|event| matches!(event, AnswerEvent::Finished(_)));
        let about_receipt = matches!(error.as_str(), "ReceiptMissing" | "ReceiptDisputed");
        assert!(finished || !about_receipt, "{name}");
        RefusedAnswer { name, exchange, records, events: events.len(), finished, error, reason }
    };
    cases.into_iter().map(refused).collect()
}
