//! What sealing costs: on the hop between coordinator and node, and of a request that only its node
//! can open. An X25519 agreement is measured too, since that is what all of it is measured by.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use iris_core::Timestamp;
use iris_core::backend::{Finish, Operation, Usage};
use iris_crypto::certificate::{Expectation, Origin, Role};
use iris_crypto::hop::{Channel, HopRoot, TAG_LEN};
use iris_crypto::seal::{
    AnswerOpener, AnswerSealer, MAX_FRAMES, Outcome, Pieces, Prompt, RecordReader, SealedRequest,
    Shape, Terms,
};
use iris_crypto::{Identity, SealingKey, SignedCertificate, VerifiedCertificate};
use x25519_dalek::{PublicKey, StaticSecret};

const HEADER: [u8; 16] = [7; 16];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .configure_from_args();
    keys(&mut criterion);
    for bytes in [64, 1024, 16 * 1024] {
        chunks(&mut criterion, bytes);
    }
    agreement(&mut criterion);
    let node = Node::new();
    requests(&mut criterion, &node);
    frames(&mut criterion, &node, Shape::Off, 64);
    frames(&mut criterion, &node, Shape::Paced, 250);
    receipts(&mut criterion, &node);
    criterion.final_summary();
}

/// Both sides of a root: what a session starts with, every ten minutes anew.
fn roots() -> (HopRoot, HopRoot) {
    let key = SealingKey::generate();
    let (encapsulated, coordinator) =
        HopRoot::initiate(&key.public(), b"bench").expect("a fresh key is not weak");
    let node = HopRoot::accept(&key, &encapsulated, b"bench").expect("a fresh key is not weak");
    (coordinator, node)
}

fn keys(criterion: &mut Criterion) {
    let ((mut root, _), mut assignment) = (roots(), 0);
    criterion.bench_function("derive an assignment's keys", |bencher| {
        bencher.iter(|| {
            assignment += 1;
            black_box(root.channel(assignment).expect("each number is new"))
        });
    });
}

fn chunks(criterion: &mut Criterion, bytes: usize) {
    let (mut coordinator, mut node) = roots();
    let Channel { mut sealer, .. } = node.channel(1).expect("the number is new");
    let Channel { mut opener, .. } = coordinator.channel(1).expect("the number is new");
    let mut chunk = vec![b'x'; bytes + TAG_LEN];
    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(bytes as u64));
    // A chunk opens once and in order, so opening is measured together with its sealing.
    group.bench_function(BenchmarkId::new("seal and open", bytes), |bencher| {
        bencher.iter(|| {
            let (text, tag) = chunk.split_at_mut(bytes);
            let sealed = sealer.seal_in_place(&HEADER, text).expect("chunks are left");
            tag.copy_from_slice(&sealed.1);
            let opened = opener.open_in_place(sealed.0, &HEADER, &mut chunk);
            black_box(opened.expect("it was just sealed").len())
        });
    });
    group.bench_function(BenchmarkId::new("seal", bytes), |bencher| {
        bencher.iter(|| {
            let sealed = sealer.seal_in_place(&HEADER, &mut chunk[..bytes]);
            black_box(sealed.expect("chunks are left"))
        });
    });
    group.finish();
}

/// One agreement on a key, which is all that others need to compare machines.
fn agreement(criterion: &mut Criterion) {
    let secret = StaticSecret::from(iris_crypto::random_bytes::<32>());
    let peer = PublicKey::from(&StaticSecret::from(iris_crypto::random_bytes::<32>()));
    criterion.bench_function("X25519 agreement", |bencher| {
        bencher.iter(|| black_box(secret.diffie_hellman(black_box(&peer))));
    });
}

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const USAGE: Usage = Usage { prompt_tokens: 900, completion_tokens: 300 };

struct Node {
    identity: Identity,
    key: SealingKey,
    certificate: VerifiedCertificate,
}

impl Node {
    fn new() -> Self {
        let (identity, key) = (Identity::generate(), SealingKey::generate());
        let origin: Origin = "https://iris.example".parse().expect("an origin");
        let signed = SignedCertificate::issue(&identity, Role::Node, key.public(), &origin, NOW, 1);
        let expected = Expectation { role: Role::Node, now: NOW, min_serial: 0, origin: &origin };
        let certificate = signed.verify(&expected).expect("it was just signed");
        Self { identity, key, certificate }
    }

    fn asked(&self, shape: Shape, prompt: &Prompt) -> (SealedRequest, AnswerOpener) {
        let model = "some-model".parse().expect("a name");
        let terms = Terms { shape, ..Terms::new(model, NOW) };
        SealedRequest::seal(&self.certificate, terms, prompt).expect("it is short")
    }

    /// Returns both sides of an answer that has begun.
    fn begun(&self, shape: Shape) -> (AnswerSealer, AnswerOpener) {
        let (request, mut opener) = self.asked(shape, &prompt(100));
        let (_, sealer) = request.open(&self.key).expect("it was just sealed");
        let mut out = Vec::new();
        sealer.opening(&mut out);
        open(&mut opener, &out);
        (sealer, opener)
    }
}

fn prompt(bytes: usize) -> Prompt {
    Prompt { operation: Operation::Chat, stream: true, body: vec![b'x'; bytes].into() }
}

fn open(opener: &mut AnswerOpener, bytes: &[u8]) {
    let mut reader = RecordReader::new();
    reader.push(bytes);
    while let Some(record) = reader.pop().expect("records are short") {
        black_box(opener.handle_record(&record).expect("it was just sealed"));
    }
}

fn requests(criterion: &mut Criterion, node: &Node) {
    let prompt = prompt(4096);
    criterion.bench_function("seal a request of 4 KiB", |bencher| {
        bencher.iter(|| black_box(node.asked(Shape::Paced, &prompt)));
    });
    let (request, _) = node.asked(Shape::Paced, &prompt);
    criterion.bench_function("open a request of 4 KiB", |bencher| {
        bencher.iter(|| {
            let arrived = SealedRequest::decode(request.wire().clone()).expect("it is one");
            black_box(arrived.open(&node.key).expect("it was sealed to this node"))
        });
    });
    let verify = SignedCertificate::decode(node.certificate.certificate().encoded());
    let signed = verify.expect("it is one");
    let origin: Origin = "https://iris.example".parse().expect("an origin");
    let expected = Expectation { role: Role::Node, now: NOW, min_serial: 0, origin: &origin };
    criterion.bench_function("verify a certificate", |bencher| {
        bencher.iter(|| black_box(signed.verify(&expected).expect("it holds")));
    });
}

fn frames(criterion: &mut Criterion, node: &Node, shape: Shape, bytes: usize) {
    let name = if shape == Shape::Off { "text, shape off" } else { "text, shape paced" };
    let text = "x".repeat(bytes);
    let mut pieces = Pieces::new(shape);
    let mut out = Vec::new();
    let mut group = criterion.benchmark_group("frame");
    // An answer has only so many frames; another one is begun now and then.
    let (mut sealer, mut opener, mut left) = (node.begun(shape).0, None, MAX_FRAMES - 1);
    group.bench_function(BenchmarkId::new(format!("seal, {name}"), bytes), |bencher| {
        bencher.iter(|| {
            if left == 0 {
                (sealer, left) = (node.begun(shape).0, MAX_FRAMES - 1);
            }
            left -= 1;
            pieces.clear();
            pieces.push_text(&text);
            out.clear();
            sealer.seal(&pieces, &mut out).expect("frames are left");
            black_box(out.len())
        });
    });
    left = 0;
    group.bench_function(BenchmarkId::new(format!("seal and open, {name}"), bytes), |bencher| {
        bencher.iter(|| {
            if left == 0 {
                let begun = node.begun(shape);
                (sealer, opener, left) = (begun.0, Some(begun.1), MAX_FRAMES / 8);
            }
            left -= 1;
            pieces.clear();
            pieces.push_text(&text);
            out.clear();
            sealer.seal(&pieces, &mut out).expect("frames are left");
            open(opener.as_mut().expect("it has begun"), &out);
        });
    });
    group.finish();
}

fn receipts(criterion: &mut Criterion, node: &Node) {
    let finish = Finish { reason: "stop".to_owned(), usage: USAGE };
    let ended = || {
        let (mut sealer, mut opener) = node.begun(Shape::Off);
        let mut out = Vec::new();
        sealer.end(&finish, &mut out).expect("frames are left");
        open(&mut opener, &out);
        (sealer, opener)
    };
    let sign = |sealer: AnswerSealer| {
        let mut out = Vec::new();
        let signed = sealer.finish(&node.identity, Outcome::Complete, USAGE, &mut out);
        signed.expect("frames are left").write_record(&mut out);
        out
    };
    criterion.bench_function("sign a receipt", |bencher| {
        bencher.iter_batched(|| ended().0, sign, BatchSize::SmallInput);
    });
    criterion.bench_function("verify a receipt", |bencher| {
        bencher.iter_batched(
            || {
                let (sealer, opener) = ended();
                (opener, sign(sealer))
            },
            |(mut opener, bytes)| open(&mut opener, &bytes),
            BatchSize::SmallInput,
        );
    });
}
