use std::time::Duration;

use bytes::Bytes;
use iris_core::Timestamp;
use iris_core::backend::{BackendError, Finish, Operation, Usage};
use proptest::prelude::*;

use super::frame::Kind;
use super::*;
use crate::certificate::{Expectation, Origin, Role};
use crate::{Identity, SealingKey, Secret, SignedCertificate, VerifiedCertificate};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

struct Node {
    identity: Identity,
    key: SealingKey,
    certificate: VerifiedCertificate,
}

impl Node {
    fn new(seed: u8) -> Self {
        let identity = Identity::from_seed(&Secret::from_bytes([seed; 32]));
        let key = SealingKey::generate();
        let origin: Origin = "https://iris.example".parse().unwrap();
        let certificate =
            SignedCertificate::issue(&identity, Role::Node, key.public(), &origin, NOW, 1);
        let expected = Expectation { role: Role::Node, now: NOW, min_serial: 0, origin: &origin };
        let certificate = certificate.verify(&expected).unwrap();
        Self { identity, key, certificate }
    }
}

fn prompt() -> Prompt {
    Prompt { operation: Operation::Chat, stream: true, body: r#"{"messages":[]}"#.into() }
}

fn terms(shape: Shape) -> Terms {
    Terms { shape, ..Terms::new("some-model".parse().unwrap(), NOW) }
}

fn finish() -> Finish {
    let usage = Usage { prompt_tokens: 100, completion_tokens: 65 };
    Finish { reason: "stop".to_owned(), usage }
}

/// Answers with two texts, an object longer than a frame, and an end; returns every record.
fn answer(node: &Node, request: &SealedRequest, shape: Shape) -> Vec<Record> {
    let (_, mut sealer) = request.open(&node.key).unwrap();
    let mut out = Vec::new();
    sealer.opening(&mut out);
    let mut pieces = Pieces::new(shape);
    assert_eq!(pieces.push_text("Paris"), 5);
    assert_eq!(pieces.push_text(" is it."), 7);
    sealer.seal(&pieces, &mut out).unwrap();
    let object = object();
    let mut rest = &object[..];
    while !rest.is_empty() {
        pieces.clear();
        let taken = pieces.push_json(rest);
        rest = &rest[taken..];
        sealer.seal(&pieces, &mut out).unwrap();
    }
    sealer.end(&finish(), &mut out).unwrap();
    sealer.seal(&Pieces::new(shape), &mut out).unwrap();
    let receipt =
        sealer.finish(&node.identity, Outcome::Complete, finish().usage, &mut out).unwrap();
    receipt.write_record(&mut out);
    records(&out)
}

fn object() -> Vec<u8> {
    format!(r#"{{"tool_calls":["{}"]}}"#, "x".repeat(600)).into_bytes()
}

fn records(bytes: &[u8]) -> Vec<Record> {
    let mut reader = RecordReader::new();
    let mut records = Vec::new();
    for byte in bytes.chunks(7) {
        reader.push(byte);
        while let Some(record) = reader.pop().unwrap() {
            records.push(record);
        }
    }
    assert!(reader.is_empty());
    records
}

/// Opens records until one fails; returns what came of them, and how it ended.
fn opened(
    mut opener: AnswerOpener,
    records: &[Record],
) -> (Vec<AnswerEvent>, Result<(), AnswerError>) {
    let mut events = Vec::new();
    for record in records {
        match opener.handle_record(record) {
            Ok(more) => events.extend(more),
            Err(error) => {
                assert_eq!(opener.handle_record(record), Err(AnswerError::Over));
                return (events, Err(error));
            }
        }
    }
    (events, opener.close())
}

fn is_success(events: &[AnswerEvent]) -> bool {
    events.iter().any(|event| matches!(event, AnswerEvent::Finished(_)))
}

#[test]
fn answer_opens_as_it_was_in_every_shape() {
    for shape in [Shape::Off, Shape::Batched, Shape::Paced] {
        let node = Node::new(1);
        let (request, opener) =
            SealedRequest::seal(&node.certificate, terms(shape), &prompt()).unwrap();
        let arrived = SealedRequest::decode(request.wire().clone()).unwrap();
        assert_eq!(arrived, request);
        assert_eq!(arrived.header().terms, terms(shape));
        assert_eq!(arrived.open(&node.key).unwrap().0, prompt());
        let records = answer(&node, &arrived, shape);
        if shape != Shape::Off {
            let frames = records.iter().filter(|record| record.kind == RecordKind::Frame);
            assert!(frames.into_iter().all(|frame| frame.payload.len() == SHAPED_FRAME + 16));
        }
        let (events, end) = opened(opener, &records);
        assert_eq!(end, Ok(()));
        let AnswerEvent::Receipt(receipt) = &events[5] else { panic!("{events:?}") };
        let expected = [
            AnswerEvent::Opened,
            AnswerEvent::Text("Paris".to_owned()),
            AnswerEvent::Text(" is it.".to_owned()),
            AnswerEvent::Json(object()),
            AnswerEvent::Finished(finish()),
        ];
        assert_eq!(events[..5], expected);
        assert_eq!(receipt.receipt().usage.prompt_tokens, 128);
        assert_eq!(receipt.receipt().usage.completion_tokens, 128);
        assert_eq!(receipt.verify(&node.identity.public()), Ok(()));
        assert_eq!(SignedReceipt::decode(&receipt.encode()), Ok(**receipt));
    }
}

#[test]
fn every_bit_of_a_request_counts() {
    let node = Node::new(1);
    let (request, _) =
        SealedRequest::seal(&node.certificate, terms(Shape::Paced), &prompt()).unwrap();
    for bit in 0..request.wire().len() * 8 {
        let mut wire = request.wire().to_vec();
        wire[bit / 8] ^= 1 << (bit % 8);
        let opened = SealedRequest::decode(wire.into()).and_then(|r| r.open(&node.key));
        assert!(opened.is_err(), "bit {bit}");
    }
}

#[test]
fn request_opens_at_its_node_only() {
    let (node, other) = (Node::new(1), Node::new(2));
    let (request, _) =
        SealedRequest::seal(&node.certificate, terms(Shape::Paced), &prompt()).unwrap();
    assert_eq!(request.open(&other.key).unwrap_err(), SealError::Rejected);
    for length in 0..request.wire().len() {
        assert!(SealedRequest::decode(request.wire().slice(..length)).is_err(), "{length}");
    }
    let longer = [&request.wire()[..], b"x"].concat();
    assert!(SealedRequest::decode(longer.into()).is_err());
}

#[test]
fn every_bit_of_an_answer_counts() {
    let node = Node::new(1);
    let seal = || SealedRequest::seal(&node.certificate, terms(Shape::Batched), &prompt()).unwrap();
    let (request, _) = seal();
    let length = answer(&node, &request, Shape::Batched).len();
    for at in 0..length {
        for bit in [0, 1, 7, 8, 300, 2047, 2048, 2175] {
            let (request, opener) = seal();
            let mut records = answer(&node, &request, Shape::Batched);
            let payload = &mut records[at].payload;
            let bit = bit % (payload.len() * 8);
            payload[bit / 8] ^= 1 << (bit % 8);
            let (events, end) = opened(opener, &records);
            assert!(end.is_err(), "record {at}, bit {bit}");
            let receipt = at + 1 == length;
            assert!(receipt == end.unwrap_err().is_about_receipt(), "record {at}: {end:?}");
            assert!(is_success(&events) == (at + 3 >= length), "record {at}");
        }
    }
}

#[test]
fn attack_05_answer_that_is_cut_reordered_repeated_or_relabelled_is_refused() {
    let node = Node::new(1);
    let seal = || SealedRequest::seal(&node.certificate, terms(Shape::Off), &prompt()).unwrap();
    let (request, _) = seal();
    let length = answer(&node, &request, Shape::Off).len();
    let end = length - 4;
    for at in 0..length {
        let (request, opener) = seal();
        let (events, closed) = opened(opener, &answer(&node, &request, Shape::Off)[..at]);
        let expected = if at > end { AnswerError::ReceiptMissing } else { AnswerError::Truncated };
        assert_eq!((is_success(&events), closed), (at > end, Err(expected)), "cut at {at}");

        let (request, opener) = seal();
        let mut records = answer(&node, &request, Shape::Off);
        records.remove(at);
        let (events, closed) = opened(opener, &records);
        assert!(closed.is_err(), "without {at}");
        assert!(!is_success(&events) || at > end, "without {at}");

        let (request, opener) = seal();
        let mut records = answer(&node, &request, Shape::Off);
        let twice = records[at].clone();
        records.insert(at, twice);
        assert!(opened(opener, &records).1.is_err() || at + 1 == length, "{at} twice");

        if at + 1 < length {
            let (request, opener) = seal();
            let mut records = answer(&node, &request, Shape::Off);
            records.swap(at, at + 1);
            assert!(opened(opener, &records).1.is_err(), "{at} swapped");
        }
        for kind in [RecordKind::Opening, RecordKind::Frame, RecordKind::Receipt] {
            let (request, opener) = seal();
            let mut records = answer(&node, &request, Shape::Off);
            if records[at].kind != kind {
                records[at].kind = kind;
                assert!(opened(opener, &records).1.is_err(), "{at} as {kind:?}");
            }
        }
    }
}

#[test]
fn attack_35_answer_to_another_request_is_refused() {
    let node = Node::new(1);
    let seal = || SealedRequest::seal(&node.certificate, terms(Shape::Off), &prompt()).unwrap();
    let ((request, _), (_, opener)) = (seal(), seal());
    let (events, end) = opened(opener, &answer(&node, &request, Shape::Off));
    assert_eq!((events.len(), end), (0, Err(AnswerError::WrongNode)));

    // Even the same request answered twice does not mix.
    let (request, opener) = seal();
    let mut first = answer(&node, &request, Shape::Off);
    first[1] = answer(&node, &request, Shape::Off)[1].clone();
    assert_eq!(opened(opener, &first).1, Err(AnswerError::Rejected));
}

#[test]
fn attack_14_receipt_of_another_task_or_with_altered_usage_is_disputed() {
    let node = Node::new(1);
    let seal = || SealedRequest::seal(&node.certificate, terms(Shape::Off), &prompt()).unwrap();
    let (request, _) = seal();
    let foreign = answer(&node, &request, Shape::Off).pop().unwrap();
    let (request, opener) = seal();
    let mut swapped = answer(&node, &request, Shape::Off);
    *swapped.last_mut().unwrap() = foreign;
    let (events, end) = opened(opener, &swapped);
    assert!(is_success(&events));
    let task = ReceiptError::Mismatch("task");
    assert_eq!(end, Err(AnswerError::ReceiptDisputed(task)));

    for usage in [Usage { prompt_tokens: 129, ..finish().usage }, Usage::default()] {
        let (request, opener) = seal();
        let (_, mut sealer) = request.open(&node.key).unwrap();
        let mut out = Vec::new();
        sealer.opening(&mut out);
        sealer.end(&finish(), &mut out).unwrap();
        let receipt = sealer.finish(&node.identity, Outcome::Complete, usage, &mut out).unwrap();
        receipt.write_record(&mut out);
        let usage = ReceiptError::Mismatch("usage");
        assert_eq!(opened(opener, &records(&out)).1, Err(AnswerError::ReceiptDisputed(usage)));
    }

    // Somebody else's signature.
    let (request, opener) = seal();
    let (_, mut sealer) = request.open(&node.key).unwrap();
    let mut out = Vec::new();
    sealer.opening(&mut out);
    sealer.end(&finish(), &mut out).unwrap();
    let other = Node::new(2).identity;
    let receipt = sealer.finish(&other, Outcome::Complete, finish().usage, &mut out).unwrap();
    receipt.write_record(&mut out);
    let forged = AnswerError::ReceiptDisputed(ReceiptError::BadSignature);
    assert_eq!(opened(opener, &records(&out)).1, Err(forged));
}

#[test]
fn failure_travels_sealed_and_is_no_success() {
    let node = Node::new(1);
    for shape in [Shape::Off, Shape::Paced] {
        let (request, opener) =
            SealedRequest::seal(&node.certificate, terms(shape), &prompt()).unwrap();
        let (_, mut sealer) = request.open(&node.key).unwrap();
        let error = BackendError::Rejected {
            status: 400,
            code: Some("context_length_exceeded".to_owned()),
            param: None,
            message: "too long ".repeat(60),
        };
        let mut out = Vec::new();
        sealer.opening(&mut out);
        sealer.fault(&error, &mut out).unwrap();
        let receipt =
            sealer.finish(&node.identity, Outcome::Failed, Usage::default(), &mut out).unwrap();
        receipt.write_record(&mut out);
        let (events, end) = opened(opener, &records(&out));
        assert_eq!(end, Ok(()));
        assert_eq!(events[1], AnswerEvent::Failed(error));
        assert!(!is_success(&events));
    }
}

#[test]
fn nothing_follows_the_end_but_dummies() {
    let node = Node::new(1);
    let (request, opener) =
        SealedRequest::seal(&node.certificate, terms(Shape::Off), &prompt()).unwrap();
    let (_, mut sealer) = request.open(&node.key).unwrap();
    let mut out = Vec::new();
    sealer.opening(&mut out);
    sealer.end(&finish(), &mut out).unwrap();
    let mut pieces = Pieces::new(Shape::Off);
    pieces.push_text("more");
    sealer.seal(&pieces, &mut out).unwrap();
    let (events, end) = opened(opener, &records(&out));
    assert!(is_success(&events));
    assert_eq!(end, Err(AnswerError::OutOfPlace("a piece behind the end")));
}

#[test]
fn end_of_another_content_is_refused() {
    let node = Node::new(1);
    let (request, opener) =
        SealedRequest::seal(&node.certificate, terms(Shape::Off), &prompt()).unwrap();
    let (_, mut sealer) = request.open(&node.key).unwrap();
    let (_, other) = request.open(&node.key).unwrap();
    let mut out = Vec::new();
    sealer.opening(&mut out);
    let mut pieces = Pieces::new(Shape::Off);
    pieces.push_text("said");
    sealer.seal(&pieces, &mut out).unwrap();
    sealer.content = other.content;
    sealer.end(&finish(), &mut out).unwrap();
    let (events, end) = opened(opener, &records(&out));
    assert!(!is_success(&events));
    assert_eq!(end, Err(AnswerError::Malformed("the end is of another answer")));
}

#[test]
fn attack_16_wrong_clock_is_said_and_weakens_nothing() {
    let node = Node::new(1);
    let (request, _) =
        SealedRequest::seal(&node.certificate, terms(Shape::Off), &prompt()).unwrap();
    let header = request.header();
    let hour = Duration::from_hours(1);
    assert_eq!(header.verify_time(NOW), Ok(()));
    assert_eq!(header.verify_time(NOW.saturating_add(MAX_TTL)), Ok(()));
    assert_eq!(header.verify_time(NOW.saturating_add(hour)), Err(SealError::Expired));
    let before = Timestamp::from_millis(NOW.as_millis() - 3_600_000);
    assert_eq!(header.verify_time(before), Err(SealError::NotYetValid));
}

#[test]
fn pieces_fill_a_frame_exactly_and_keep_characters_whole() {
    let mut pieces = Pieces::new(Shape::Paced);
    assert_eq!(pieces.room(), SHAPED_FRAME - 3);
    assert_eq!(pieces.push_text(&"é".repeat(200)), SHAPED_FRAME - 4);
    assert_eq!(pieces.room(), 0);
    assert_eq!(pieces.push_text("x"), 0);
    let mut pieces = Pieces::new(Shape::Off);
    assert_eq!(pieces.push_whole(&vec![b'x'; 100_000]), usize::from(u16::MAX));
    let node = Node::new(1);
    let (request, _) =
        SealedRequest::seal(&node.certificate, terms(Shape::Off), &prompt()).unwrap();
    let (_, mut sealer) = request.open(&node.key).unwrap();
    let mut out = Vec::new();
    sealer.seal(&pieces, &mut out).unwrap();
    assert_eq!(records(&out).len(), 1);
}

proptest! {
    #[test]
    fn pieces_of_any_cut_open_to_the_same_answer(
        texts in prop::collection::vec("\\PC{0,300}", 0..6),
        paced in any::<bool>(),
    ) {
        let shape = if paced { Shape::Paced } else { Shape::Off };
        let node = Node::new(1);
        let (request, opener) =
            SealedRequest::seal(&node.certificate, terms(shape), &prompt()).unwrap();
        let (_, mut sealer) = request.open(&node.key).unwrap();
        let mut out = Vec::new();
        sealer.opening(&mut out);
        let mut pieces = Pieces::new(shape);
        for text in &texts {
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let taken = pieces.push_text(rest);
                rest = &rest[taken..];
                if taken == 0 {
                    sealer.seal(&pieces, &mut out).unwrap();
                    pieces.clear();
                }
            }
        }
        sealer.seal(&pieces, &mut out).unwrap();
        sealer.end(&finish(), &mut out).unwrap();
        sealer
            .finish(&node.identity, Outcome::Complete, finish().usage, &mut out)
            .unwrap()
            .write_record(&mut out);
        let (events, end) = opened(opener, &records(&out));
        prop_assert_eq!(end, Ok(()));
        let text: String = events.iter().filter_map(|event| match event {
            AnswerEvent::Text(text) => Some(text.as_str()),
            _ => None,
        }).collect();
        prop_assert_eq!(text, texts.concat());
    }

    #[test]
    fn whatever_the_node_seals_is_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..600)) {
        let node = Node::new(1);
        let (request, opener) =
            SealedRequest::seal(&node.certificate, terms(Shape::Off), &prompt()).unwrap();
        let (_, mut sealer) = request.open(&node.key).unwrap();
        let mut out = Vec::new();
        sealer.opening(&mut out);
        let mut pieces = Pieces::new(Shape::Off);
        pieces.push_part(Kind::Text, b"x");
        sealer.seal(&pieces, &mut out).unwrap();
        pieces.text = text;
        // A sealer is given whole pieces only; here it is a liar's.
        sealer.append(&pieces, false, &mut out).unwrap();
        let (events, _) = opened(opener, &records(&out));
        prop_assert_eq!(&events[1], &AnswerEvent::Text("x".to_owned()));
    }
}

#[test]
fn secrets_and_content_do_not_print() {
    let node = Node::new(1);
    let body = Bytes::from_static(b"a-secret-prompt");
    let prompt = Prompt { operation: Operation::Chat, stream: false, body };
    let (request, opener) =
        SealedRequest::seal(&node.certificate, terms(Shape::Off), &prompt).unwrap();
    let (_, sealer) = request.open(&node.key).unwrap();
    let mut pieces = Pieces::new(Shape::Off);
    pieces.push_text("a-secret-answer");
    let printed = format!("{prompt:?} {request:?} {opener:?} {sealer:?} {pieces:?}");
    assert!(!printed.contains("a-secret"), "{printed}");
}
