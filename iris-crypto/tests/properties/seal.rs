//! What holds for anything that a caller, a relay or a node sends of a sealed request.

use std::sync::LazyLock;

use iris_core::Timestamp;
use iris_core::backend::{Finish, Operation, Usage};
use iris_crypto::certificate::{Expectation, Origin, Role};
use iris_crypto::seal::{
    AnswerError, AnswerEvent, AnswerOpener, Outcome, Pieces, Progress, Prompt, Record, RecordKind,
    RecordReader, SealedRequest, Shape, SignedReceipt, Terms, write_record,
};
use iris_crypto::{Identity, SealingKey, Secret, SignedCertificate, VerifiedCertificate};

/// The first byte says who reads the others: a node the request that they are, or how one is
/// altered; a client the records that they are, or how those of an answer are altered; or whoever
/// keeps receipts.
pub(crate) fn seal(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match kind % 5 {
        0 => request(rest),
        1 => altered_request(rest),
        2 => records(rest),
        3 => altered_answer(rest),
        _ => receipt(rest),
    }
}

/// A request has one encoding, and does not open where it was not sealed to.
fn request(bytes: &[u8]) {
    let Ok(request) = SealedRequest::decode(bytes.to_vec().into()) else { return };
    assert_eq!(request.wire()[..], *bytes);
    let header = request.header();
    let _ = header.verify_time(NOW);
    assert!(header.good_until() >= header.terms.issued_at);
    assert!(request.open(&NODE.key).is_err());
}

/// A request that was altered in any place does not open.
fn altered_request(edits: &[u8]) {
    let (request, _) = NODE.asked(Shape::Paced);
    let mut wire = request.wire().to_vec();
    for edit in edits.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]]));
        match edit[1] % 16 {
            0 => wire.truncate(at),
            1 => wire.push(edit[2]),
            _ => {
                if let Some(byte) = wire.get_mut(at) {
                    *byte ^= edit[2];
                }
            }
        }
    }
    let is_whole = wire == request.wire()[..];
    let opened = SealedRequest::decode(wire.into()).and_then(|it| it.open(&NODE.key));
    assert_eq!(opened.is_ok(), is_whole);
    if let Ok((prompt, _)) = opened {
        assert_eq!(prompt, NODE.prompt);
    }
}

/// Records are the same however they were cut, and say what was read.
fn records(bytes: &[u8]) {
    let (cut, bytes) = bytes.split_at(bytes.len().min(1));
    let cut = cut.first().map_or(1, |cut| usize::from(*cut).max(1));
    let (whole, is_over) = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, cut), (whole.clone(), is_over));
    let mut again = Vec::new();
    for record in &whole {
        write_record(record.kind, &record.payload, &mut again);
    }
    assert_eq!(again, bytes[..again.len()]);
    // Nothing in them is of an answer that was asked for.
    let (_, opener) = NODE.asked(Shape::Off);
    assert_eq!(open(opener, &whole).0, []);
}

/// Cuts bytes into parts and reads them; returns whether the reader gave up, too.
fn read(bytes: &[u8], part: usize) -> (Vec<Record>, bool) {
    let mut reader = RecordReader::new();
    let mut records = Vec::new();
    for part in bytes.chunks(part) {
        reader.push(part);
        loop {
            match reader.pop() {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                Err(_) => return (records, true),
            }
        }
    }
    (records, false)
}

/// Of an answer that was altered everything opens up to the first record that is not as the node
/// made it, and nothing from there on.
fn altered_answer(edits: &[u8]) {
    let (shape, edits) = match edits.split_first() {
        Some((1, edits)) => (Shape::Batched, edits),
        Some((2, edits)) => (Shape::Paced, edits),
        _ => (Shape::Off, edits.get(1..).unwrap_or_default()),
    };
    let (request, opener) = NODE.asked(shape);
    let (made, said): (Vec<_>, Vec<_>) = NODE.answer(&request, shape).into_iter().unzip();
    let mut sent = made.clone();
    for edit in edits.chunks_exact(4) {
        alter(&mut sent, edit);
    }
    let counting = |record: &&Record| {
        matches!(record.kind, RecordKind::Opening | RecordKind::Frame | RecordKind::Receipt)
    };
    let counted = sent.iter().filter(counting);
    let sound = counted.clone().zip(&made).take_while(|(sent, made)| sent == made).count();
    let (events, progress) = open(opener, &sent);
    assert_eq!(events, said[..sound].concat());
    assert_eq!(progress == Progress::Receipted, sound == made.len() && counted.count() == sound);
}

/// Opens records until one is refused; nothing opens behind that.
fn open(mut opener: AnswerOpener, records: &[Record]) -> (Vec<AnswerEvent>, Progress) {
    let mut events = Vec::new();
    let mut is_broken = false;
    for record in records {
        match opener.handle_record(record) {
            Ok(more) => {
                assert!(!is_broken || more.is_empty());
                events.extend(more);
            }
            Err(error) => {
                assert_eq!(is_broken, error == AnswerError::Over);
                is_broken = true;
            }
        }
    }
    let progress = opener.progress();
    let closed = opener.close();
    let expected = match progress {
        Progress::Receipted => Ok(()),
        Progress::Ended => Err(AnswerError::ReceiptMissing),
        Progress::Broken => Err(AnswerError::Over),
        _ => Err(AnswerError::Truncated),
    };
    assert_eq!(closed, expected);
    (events, progress)
}

fn alter(records: &mut Vec<Record>, edit: &[u8]) {
    let at = usize::from(edit[1]);
    if records.is_empty() || at >= records.len() {
        return;
    }
    let (high, low) = (edit[2], edit[3]);
    let other = usize::from(low) % records.len();
    match edit[0] % 9 {
        0 => drop(records.remove(at)),
        1 => records.insert(at, records[other].clone()),
        2 => records.swap(at, other),
        3 => records.truncate(at),
        4 => {
            let payload = &mut records[at].payload;
            if !payload.is_empty() {
                let byte = usize::from(u16::from_be_bytes([high, low])) % payload.len();
                payload[byte] ^= high | 1;
            }
        }
        5 => drop(records[at].payload.pop()),
        6 => records[at].payload.push(low),
        7 => records[at].kind = KINDS[usize::from(low) % KINDS.len()],
        _ => records.insert(at, Record { kind: RecordKind::KeepAlive, payload: Vec::new() }),
    }
}

const KINDS: [RecordKind; 6] = [
    RecordKind::KeepAlive,
    RecordKind::Opening,
    RecordKind::Frame,
    RecordKind::Receipt,
    RecordKind::Failure,
    RecordKind::Other(9),
];

/// A receipt has one encoding, and holds only if the node signed it.
fn receipt(bytes: &[u8]) {
    let Ok(receipt) = SignedReceipt::decode(bytes) else { return };
    assert_eq!(receipt.encode(), bytes);
    assert!(receipt.verify(&NODE.identity.public()).is_err());
}

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

struct Node {
    identity: Identity,
    key: SealingKey,
    certificate: VerifiedCertificate,
    prompt: Prompt,
}

static NODE: LazyLock<Node> = LazyLock::new(|| {
    let identity = Identity::from_seed(&Secret::from_bytes([1; 32]));
    let key = SealingKey::generate();
    let origin: Origin = "https://iris.example".parse().expect("an origin");
    let signed = SignedCertificate::issue(&identity, Role::Node, key.public(), &origin, NOW, 1);
    let expected = Expectation { role: Role::Node, now: NOW, min_serial: 0, origin: &origin };
    let certificate = signed.verify(&expected).expect("it was just signed");
    let prompt = Prompt { operation: Operation::Chat, stream: true, body: "{}".into() };
    Node { identity, key, certificate, prompt }
});

impl Node {
    /// Seals a request to the node, and returns what opens the answer.
    fn asked(&self, shape: Shape) -> (SealedRequest, AnswerOpener) {
        let model = "some-model".parse().expect("a name");
        let terms = Terms { shape, ..Terms::new(model, NOW) };
        SealedRequest::seal(&self.certificate, terms, &self.prompt).expect("it is short")
    }

    /// Answers a request; returns each record with what it says.
    fn answer(&self, request: &SealedRequest, shape: Shape) -> Vec<(Record, Vec<AnswerEvent>)> {
        let (_, mut sealer) = request.open(&self.key).expect("it was just sealed");
        let mut answer = Vec::new();
        let mut out = Vec::new();
        let mut said = |out: &mut Vec<u8>, events: Vec<AnswerEvent>| {
            let mut reader = RecordReader::new();
            reader.push(out);
            out.clear();
            let record = reader.pop().expect("it is short").expect("it is whole");
            assert!(reader.is_empty(), "one record at a time");
            answer.push((record, events));
        };
        sealer.opening(&mut out);
        said(&mut out, vec![AnswerEvent::Opened]);
        let mut pieces = Pieces::new(shape);
        let texts = ["Paris", " is it."];
        for text in texts {
            assert_eq!(pieces.push_text(text), text.len());
        }
        sealer.seal(&pieces, &mut out).expect("few frames");
        said(&mut out, texts.map(|text| AnswerEvent::Text(text.to_owned())).to_vec());
        let json = format!("{{\"x\":\"{}\"}}", "x".repeat(300)).into_bytes();
        let mut rest = &json[..];
        while !rest.is_empty() {
            pieces.clear();
            rest = &rest[pieces.push_json(rest)..];
            sealer.seal(&pieces, &mut out).expect("few frames");
            let whole = rest.is_empty().then(|| AnswerEvent::Json(json.clone()));
            said(&mut out, whole.into_iter().collect());
        }
        let usage = Usage { prompt_tokens: 100, completion_tokens: 65 };
        let finish = Finish { reason: "stop".to_owned(), usage };
        sealer.end(&finish, &mut out).expect("few frames");
        said(&mut out, vec![AnswerEvent::Finished(finish)]);
        sealer.seal(&Pieces::new(shape), &mut out).expect("few frames");
        said(&mut out, Vec::new());
        let receipt =
            sealer.finish(&self.identity, Outcome::Complete, usage, &mut out).expect("few frames");
        said(&mut out, Vec::new());
        receipt.write_record(&mut out);
        said(&mut out, vec![AnswerEvent::Receipt(Box::new(receipt))]);
        answer
    }
}
