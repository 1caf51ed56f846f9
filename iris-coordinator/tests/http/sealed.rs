//! Requests that only their node can read, on their way there and back.

use futures::TryStreamExt;
use iris_core::backend::{BackendError, Finish, Operation, Usage};
use iris_core::store::{Key, Store};
use iris_core::{ModelName, Timestamp};
use iris_crypto::SignedCertificate;
use iris_crypto::certificate::{Expectation, Origin, Role};
use iris_crypto::seal::{
    AnswerError, AnswerEvent, AnswerOpener, MEDIA_TYPE, Prompt, Record, RecordKind, RecordReader,
    SealedRequest, Shape, SignedReceipt, Terms, write_record,
};
use iris_protocol::message::RefuseReason;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::node::{Persona, SOON};
use super::transparency::Ahead;
use super::*;

const PROMPT: &str = r#"{"model":"org/model:q4","messages":[{"role":"user","content":"hi"}]}"#;

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_millis(since.as_millis().try_into().unwrap())
}

fn model() -> ModelName {
    Node::MODEL.parse().unwrap()
}

/// A caller that has sealed one request.
pub(crate) struct Caller {
    pub(crate) request: SealedRequest,
    opener: AnswerOpener,
}

impl Caller {
    pub(crate) fn new(net: &Net, certificate: &SignedCertificate) -> Self {
        Self::with(net, certificate, Terms::new(model(), now()))
    }

    fn with(net: &Net, certificate: &SignedCertificate, terms: Terms) -> Self {
        let origin = Origin::from(net.coordinator.identity());
        let expected = Expectation { role: Role::Node, now: now(), min_serial: 0, origin: &origin };
        let certificate = certificate.verify(&expected).unwrap();
        let prompt = Prompt { operation: Operation::Chat, stream: true, body: PROMPT.into() };
        let (request, opener) = SealedRequest::seal(&certificate, terms, &prompt).unwrap();
        Self { request, opener }
    }

    /// Opens a whole answer.
    fn open(&mut self, reply: &Reply) -> Result<Vec<AnswerEvent>, AnswerError> {
        let mut events = Vec::new();
        for record in records(reply) {
            events.extend(self.opener.handle_record(&record)?);
        }
        Ok(events)
    }
}

fn records(reply: &Reply) -> Vec<Record> {
    let mut reader = RecordReader::new();
    reader.push(&reply.body);
    let mut records = Vec::new();
    while let Some(record) = reader.pop().unwrap() {
        records.push(record);
    }
    assert!(reader.is_empty(), "an answer is made of whole records");
    records
}

/// Returns the coordinator's advice, which is the last record.
fn advice(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.head);
    let records = records(reply);
    let last = records.last().unwrap();
    assert_eq!(last.kind, RecordKind::Failure);
    assert!(records.iter().all(|record| record.kind != RecordKind::Receipt));
    let advice: Value = serde_json::from_slice(&last.payload).unwrap();
    assert!(advice["error"]["message"].is_string(), "{advice}");
    advice["error"]["code"].clone()
}

impl Net {
    fn sealed_request(&self, wire: &[u8]) -> Vec<u8> {
        let Bearer(bearer) = self.bearer();
        let length = wire.len();
        let head = format!(
            "POST /sealed HTTP/1.1\r\nhost: iris\r\nconnection: close\r\nauthorization: {bearer}\r\n\
             content-type: {MEDIA_TYPE}\r\ncontent-length: {length}\r\n\r\n"
        );
        [head.as_bytes(), wire].concat()
    }

    pub(crate) async fn relay(&self, request: &SealedRequest) -> Reply {
        timeout(SOON, send(self.address, self.sealed_request(request.wire()))).await.unwrap()
    }

    /// Seals a request to `node`, and sends it.
    async fn ask(&self, node: &Node) -> Reply {
        self.relay(&Caller::new(self, &node.certificate()).request).await
    }

    async fn sealing_node(&self, steps: Vec<Step>) -> Node {
        self.node_as(Persona::sealing(2), steps).await
    }

    pub(crate) async fn node_as(&self, persona: Persona, steps: Vec<Step>) -> Node {
        let key = key(&self.coordinator, self.account, KeyScope::Node).await;
        Node::connect_as(self.address, &key, persona, steps).await
    }

    /// Returns the records of a type, once there are `count` of them.
    pub(crate) async fn books(&self, kind: &str, count: usize) -> Vec<Value> {
        let written = async {
            loop {
                let found: Vec<_> = self.store.scan(Key::all(kind)).try_collect().await.unwrap();
                if found.len() >= count {
                    return found;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let found = timeout(SOON, written).await.unwrap();
        assert_eq!(found.len(), count);
        found.iter().map(|record| record.value.decode().unwrap()).collect()
    }

    fn points(&self) -> i64 {
        self.coordinator.nodes()[0].points
    }
}

fn answer() -> Vec<Step> {
    vec![Step::text("hel"), Step::text("lo"), Step::Finish("length")]
}

#[tokio::test]
async fn request_and_answer_pass_byte_for_byte_and_leave_a_receipt() {
    let net = Net::start().await;
    let node = net.sealing_node(answer()).await;
    let mut caller = Caller::new(&net, &node.certificate());
    let reply = net.relay(&caller.request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some(MEDIA_TYPE));
    assert_eq!(reply.header("content-encoding"), None);
    assert_eq!(reply.header("content-length"), None);
    assert_eq!(reply.header("x-iris-privacy"), None, "that is for the caller to say");
    let nodes = net.coordinator.nodes();
    assert_eq!(reply.header("x-iris-node"), Some(nodes[0].id.as_str()));
    assert_eq!(reply.header("x-iris-task"), reply.header("x-request-id"));
    assert_eq!(node.asked.lock().unwrap()[0].1, caller.request.wire());

    let events = caller.open(&reply).unwrap();
    let usage = Usage { prompt_tokens: 3, completion_tokens: 2 };
    let finish = Finish { reason: "length".to_owned(), usage };
    let [opened, first, second, finished, AnswerEvent::Receipt(receipt)] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(*opened, AnswerEvent::Opened);
    assert_eq!(*first, AnswerEvent::Text("hel".to_owned()));
    assert_eq!(*second, AnswerEvent::Text("lo".to_owned()));
    assert_eq!(*finished, AnswerEvent::Finished(finish));

    let settlement = &net.books("settlement", 1).await[0];
    assert_eq!(settlement["sealed"], true);
    assert_eq!(settlement["state"], "finished");
    assert_eq!(settlement["usage"], json!({"prompt_tokens": 64, "completion_tokens": 64}));
    assert_eq!(settlement["task"], reply.header("x-iris-task").unwrap());
    assert_eq!(settlement["receipt"], receipt.id().to_string());
    let kept = &net.books("receipt", 1).await[0];
    let base64 = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    assert_eq!(kept["receipt"], base64(&receipt.encode()));
    assert_eq!(kept["request"], base64(&caller.request.digest()));
    assert_eq!(kept["client_task"], base64(&caller.request.header().task));
    assert_eq!(kept["node"], nodes[0].id.as_str());
    let page = net.get("/receipts").await.json();
    let told = &page["receipts"][0];
    assert_eq!(told["task"], reply.header("x-iris-task").unwrap(), "{page}");
    for member in ["node", "client_task", "request", "receipt"] {
        assert_eq!(told[member], kept[member], "{member}");
    }
    let other = net.coordinator.accounts().create_account().await.unwrap().account;
    let other = key(&net.coordinator, other, KeyScope::Inference).await;
    let bearer = format!("Bearer {other}");
    let others = request("GET", "/receipts", &[("authorization", &bearer)], "");
    assert_eq!(send(net.address, others).await.json(), json!({"receipts": []}));
    assert!(net.points() > 100);
    let stats = net.coordinator.stats();
    assert_eq!((stats.finished, stats.sealed), (1, 1));
}

#[tokio::test]
async fn nothing_of_the_request_is_written_down() {
    let net = Net::start().await;
    let node = net.sealing_node(answer()).await;
    let caller = Caller::new(&net, &node.certificate());
    net.relay(&caller.request).await;
    net.books("receipt", 1).await;
    let all = Key::new("a", "-").unwrap()..Key::new("zz", "-").unwrap();
    let records: Vec<_> = net.store.scan(all).try_collect().await.unwrap();
    assert!(records.len() > 3);
    let wire = caller.request.wire();
    let piece = &wire[wire.len() - 48..wire.len() - 16];
    let forms = [
        data_encoding::HEXLOWER.encode(piece),
        data_encoding::BASE64_NOPAD.encode(&piece[..30]),
        data_encoding::BASE64URL_NOPAD.encode(&piece[..30]),
    ];
    for record in &records {
        let text = record.value.as_text();
        assert!(forms.iter().all(|form| !text.contains(form)), "{text}");
    }
}

#[tokio::test]
async fn failed_answer_ends_with_its_receipt_and_without_words() {
    let net = Net::start().await;
    let rejected = BackendError::Rejected {
        status: 422,
        code: Some("why".to_owned()),
        param: None,
        message: "between the two of us".to_owned(),
    };
    let node = net.sealing_node(vec![Step::text("part"), Step::Fail(rejected.clone())]).await;
    let mut caller = Caller::new(&net, &node.certificate());
    let reply = net.relay(&caller.request).await;
    let events = caller.open(&reply).unwrap();
    assert_eq!(events[2], AnswerEvent::Failed(rejected));
    assert!(matches!(events[3], AnswerEvent::Receipt(_)));
    let settlement = &net.books("settlement", 1).await[0];
    assert_eq!((&settlement["state"], &settlement["sealed"]), (&json!("failed"), &json!(true)));
    assert_eq!(settlement["usage"]["completion_tokens"], 0);
    assert_eq!(net.books("receipt", 1).await.len(), 1);
}

#[tokio::test]
async fn busy_node_says_when_and_nobody_waits_in_line() {
    let net = Net::start().await;
    let steps = [vec![Step::text("a"), Step::Wait], answer()].concat();
    let node = net.node_as(Persona::sealing(1), steps).await;
    let mut first = TcpStream::connect(net.address).await.unwrap();
    let mut caller = Caller::new(&net, &node.certificate());
    first.write_all(&net.sealed_request(caller.request.wire())).await.unwrap();
    let mut seen = Vec::new();
    while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
        assert!(timeout(SOON, first.read_buf(&mut seen)).await.unwrap().unwrap() > 0);
    }
    let reply = net.ask(&node).await;
    assert_eq!((reply.status, reply.error_code()), (429, json!("node_busy")));
    let after: u32 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=600).contains(&after));
    assert_eq!(net.coordinator.stats().queued, 0);
    node.open_gate();
    let rest = async { while first.read_buf(&mut seen).await.unwrap() > 0 {} };
    timeout(SOON, rest).await.unwrap();
    let reply = client::read(&seen[..]).await;
    let events = caller.open(&reply).unwrap();
    assert!(matches!(events.last(), Some(AnswerEvent::Receipt(_))));
    // The slot is free again.
    assert_eq!(net.ask(&node).await.status, 200);
}

#[tokio::test]
async fn node_that_left_is_offline() {
    let net = Net::start().await;
    let node = net.sealing_node(vec![Step::Vanish]).await;
    // Whether it still accepts the first request makes no difference.
    assert_ne!(net.ask(&node).await.status, 200);
    let reply = net.ask(&node).await;
    assert_eq!((reply.status, reply.error_code()), (503, json!("node_offline")));
    assert_eq!(reply.header("retry-after"), Some("10"));
}

#[tokio::test]
async fn node_that_cannot_seal_gets_no_sealed_request() {
    let net = Net::start().await;
    let persona = Persona { seals: false, ..Persona::sealing(2) };
    let node = net.node_as(persona, answer()).await;
    let reply = net.ask(&node).await;
    assert_eq!((reply.status, reply.error_code()), (503, json!("node_offline")));
    assert!(node.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn unknown_key_is_stale_and_names_no_other() {
    let net = Net::start().await;
    net.sealing_node(answer()).await;
    let other = Net::start().await;
    let stranger = other.sealing_node(answer()).await;
    let caller = Caller::new(&other, &stranger.certificate());
    let reply = net.relay(&caller.request).await;
    assert_eq!((reply.status, reply.error_code()), (409, json!("stale_key")));
    assert!(reply.json().as_object().unwrap().get("certificate").is_none());
}

#[tokio::test]
async fn key_of_a_node_that_restarted_is_stale_and_leads_to_the_current_one() {
    let net = Net::start().await;
    let persona = Persona::sealing(2);
    let before = net.node_as(persona, answer()).await;
    let after = net.node_as(persona, answer()).await;
    let reply = net.ask(&before).await;
    assert_eq!((reply.status, reply.error_code()), (409, json!("stale_key")));
    let current: SignedCertificate = reply.json()["certificate"].as_str().unwrap().parse().unwrap();
    assert_eq!(current, after.certificate());
    assert_eq!(net.relay(&Caller::new(&net, &current).request).await.status, 200);
}

#[tokio::test]
async fn replaced_key_is_taken_for_its_grace() {
    let net = Net::start().await;
    let mut node = net.sealing_node(answer()).await;
    let old = node.certificate();
    node.renew().await;
    assert_ne!(node.certificate(), old);
    for certificate in [old, node.certificate()] {
        // The coordinator learns of the new key a moment after the node has it.
        let answered = async {
            loop {
                let reply = net.relay(&Caller::new(&net, &certificate).request).await;
                if reply.status == 200 {
                    return;
                }
                assert_eq!(reply.error_code(), json!("stale_key"));
            }
        };
        timeout(SOON, answered).await.unwrap();
    }
}

#[tokio::test]
async fn replaced_key_is_stale_after_its_grace() {
    let clock = Ahead::default();
    let builder = Coordinator::builder(
        Arc::new(MemoryStore::new()),
        Identity::generate(),
        Secret::from_bytes([9; 32]),
    );
    let coordinator = builder.with_clock(Arc::new(clock.clone())).build().await.unwrap();
    let net = Net::around(coordinator, ServerSettings::default()).await;
    let mut node = net.sealing_node(answer()).await;
    let (old, caller) = (node.certificate(), Caller::new(&net, &node.certificate()));
    node.renew().await;
    let replaced = async {
        while net.coordinator.certificate_for(&old.hash()) == Some(old.clone()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, replaced).await.unwrap();
    clock.by(std::time::Duration::from_mins(15));
    let reply = net.relay(&caller.request).await;
    assert_eq!((reply.status, reply.error_code()), (409, json!("stale_key")));
    assert_eq!(reply.json()["certificate"], node.certificate().to_string());
    assert!(node.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_a_node_turns_down_has_its_code() {
    for (reason, status, code) in [
        (RefuseReason::SealRejected, 400, "seal_rejected"),
        (RefuseReason::BadRequest, 400, "seal_rejected"),
        (RefuseReason::Busy, 429, "node_busy"),
        (RefuseReason::ModelNotFound, 404, "model_not_found"),
        (RefuseReason::Paused, 503, "node_offline"),
        // Its current key is not stale; the keys of its connection are.
        (RefuseReason::StaleKey, 503, "node_offline"),
    ] {
        let net = Net::start().await;
        let node = net.sealing_node(vec![Step::Refuse(reason)]).await;
        let reply = net.ask(&node).await;
        assert_eq!((reply.status, reply.error_code()), (status, json!(code)), "{reason:?}");
        assert_eq!(net.points(), 100, "a refusal is honest");
    }
}

#[tokio::test]
async fn model_that_the_node_does_not_offer_is_not_found() {
    let net = Net::start().await;
    let node = net.sealing_node(answer()).await;
    let terms = Terms::new("other".parse().unwrap(), now());
    let caller = Caller::with(&net, &node.certificate(), terms);
    let reply = net.relay(&caller.request).await;
    assert_eq!((reply.status, reply.error_code()), (404, json!("model_not_found")));
    assert!(node.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn bodies_that_are_no_sealed_requests_are_refused_by_type() {
    let net = Net::start().await;
    let node = net.sealing_node(answer()).await;
    let caller = Caller::new(&net, &node.certificate());
    let wire = caller.request.wire().to_vec();
    let longer = [&wire[..], &[0]].concat();
    let shorter = wire[..wire.len() - 1].to_vec();
    let mut other_version = wire.clone();
    other_version[10] = b'2';
    for bad in [vec![], b"{}".to_vec(), wire[..100].to_vec(), longer, shorter, other_version] {
        let reply = send(net.address, net.sealed_request(&bad)).await;
        let found = (reply.status, reply.error_code());
        assert_eq!(found, (400, json!("bad_sealed_request")), "{} bytes", bad.len());
    }
    assert!(node.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn door_of_sealed_requests_is_that_of_all_others() {
    let net = Net::with_api(ApiSettings::default().with_body_limit(2000)).await;
    let node = net.sealing_node(answer()).await;
    let long = send(net.address, net.sealed_request(&[7; 2001])).await;
    assert_eq!((long.status, long.error_code()), (413, json!("request_too_large")));
    let nobody = send(net.address, request("POST", "/sealed", &[], "x")).await;
    assert_eq!((nobody.status, nobody.error_code()), (401, json!("invalid_api_key")));
    let wrong = format!("Bearer {}", net.operator);
    let wrong = request("POST", "/sealed", &[("authorization", &wrong)], "x");
    assert_eq!(send(net.address, wrong).await.status, 403);
    assert_eq!(net.get("/sealed").await.status, 405);
    assert_eq!(net.ask(&node).await.status, 200);
}

/// Changes a receipt's last byte, which is one of the signature.
fn other_signature(mut receipt: Vec<u8>) -> Option<Vec<u8>> {
    *receipt.last_mut()? ^= 1;
    Some(receipt)
}

/// Changes the receipt's count of tokens written, from 64 to 128.
fn other_usage(mut receipt: Vec<u8>) -> Option<Vec<u8>> {
    let at = receipt.windows(8).position(|bytes| bytes == [0, 0, 0, 64, 0, 0, 0, 64])? + 7;
    receipt[at] = 128;
    Some(receipt)
}

fn other_request(mut receipt: Vec<u8>) -> Option<Vec<u8>> {
    *receipt.get_mut(64)? ^= 1;
    Some(receipt)
}

#[tokio::test]
async fn false_receipt_costs_the_node_and_is_not_passed_on() {
    for forge in [other_signature, other_usage, other_request, |_| None, |_| Some(vec![1; 9])] {
        let net = Net::start().await;
        let node = net.sealing_node(vec![Step::text("a"), Step::Forge(forge)]).await;
        let reply = net.ask(&node).await;
        assert_eq!(advice(&reply), json!("interrupted"));
        let settlement = &net.books("settlement", 1).await[0];
        assert_eq!(settlement["attempts"][0]["end"], "invalid");
        net.books("receipt", 0).await;
        assert_eq!(net.points(), 50);
    }
    // A receipt that nobody forged, to tell that the steps are sound.
    let net = Net::start().await;
    let node = net.sealing_node(vec![Step::text("a"), Step::Forge(Some)]).await;
    let reply = net.ask(&node).await;
    assert!(records(&reply).iter().any(|record| record.kind == RecordKind::Receipt));
}

#[tokio::test]
async fn what_are_no_records_ends_the_answer_and_costs_the_node() {
    let record = |kind, length| {
        let mut out = Vec::new();
        write_record(kind, &vec![1; length], &mut out);
        out
    };
    let opening = record(RecordKind::Opening, 64);
    for bad in [
        record(RecordKind::Receipt, SignedReceipt::LEN),
        record(RecordKind::Failure, 2),
        record(RecordKind::KeepAlive, 0),
        opening.clone(),
        opening[..9].to_vec(),
    ] {
        let net = Net::start().await;
        let steps = vec![Step::Records(opening.clone()), Step::Records(bad)];
        let node = net.sealing_node(steps).await;
        let reply = net.ask(&node).await;
        assert_eq!(advice(&reply), json!("interrupted"));
        assert_eq!(records(&reply).len(), 2, "nothing of it was passed on");
        assert_eq!(net.points(), 50);
    }
}

#[tokio::test]
async fn node_that_is_lost_amid_its_answer_leaves_advice() {
    let net = Net::start().await;
    let node = net.sealing_node(vec![Step::text("a"), Step::Wait, Step::Vanish]).await;
    let (mut caller, asked) = (Caller::new(&net, &node.certificate()), node.asked.clone());
    let reply = tokio::join!(net.relay(&caller.request), async {
        while asked.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        node.open_gate();
    });
    assert_eq!(advice(&reply.0), json!("interrupted"));
    let events = caller.open(&reply.0).unwrap();
    assert_eq!(events[..2], [AnswerEvent::Opened, AnswerEvent::Text("a".to_owned())]);
    assert_eq!(caller.opener.close(), Err(AnswerError::Truncated));
}

#[tokio::test]
async fn sealed_and_open_answers_are_not_mixed() {
    let net = Net::start().await;
    let node = net.sealing_node(vec![Step::text("a"), Step::Mix]).await;
    let reply = net.ask(&node).await;
    assert_eq!(advice(&reply), json!("interrupted"));
    assert!(!reply.body.windows(11).any(|bytes| bytes == b"in the open"));
    assert!(net.coordinator.nodes().is_empty(), "the node was expelled");

    let net = Net::start().await;
    net.sealing_node(vec![Step::text("a"), Step::Mix]).await;
    let reply = net.chat(r#","stream":true"#).await;
    assert!(!reply.text().contains("sealed") && !reply.text().contains("[DONE]"));
    assert!(net.coordinator.nodes().is_empty(), "the node was expelled");
}

#[tokio::test]
async fn caller_that_leaves_frees_the_node_of_its_sealed_task() {
    let net = Net::start().await;
    let mut node = net.sealing_node(vec![Step::text("a"), Step::Wait, Step::Finish("stop")]).await;
    let mut stream = TcpStream::connect(net.address).await.unwrap();
    let caller = Caller::new(&net, &node.certificate());
    stream.write_all(&net.sealed_request(caller.request.wire())).await.unwrap();
    let mut seen = Vec::new();
    while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
        assert!(timeout(SOON, stream.read_buf(&mut seen)).await.unwrap().unwrap() > 0);
    }
    drop(stream);
    timeout(SOON, node.cancelled.recv()).await.unwrap().unwrap();
    let settlement = &net.books("settlement", 1).await[0];
    assert_eq!(settlement["state"], "cancelled");
    assert_eq!(net.points(), 100);
}

#[tokio::test]
async fn silence_is_bridged_by_keep_alive_records() {
    let keep_alive = std::time::Duration::from_millis(20);
    let net = Net::with_api(ApiSettings::default().with_keep_alive(keep_alive)).await;
    let node = net.sealing_node([vec![Step::Wait], answer()].concat()).await;
    let mut stream = TcpStream::connect(net.address).await.unwrap();
    let mut caller = Caller::new(&net, &node.certificate());
    stream.write_all(&net.sealed_request(caller.request.wire())).await.unwrap();
    let mut seen = Vec::new();
    while seen.windows(5).filter(|bytes| *bytes == [0, 0, 0, 1, 0]).count() < 2 {
        assert!(timeout(SOON, stream.read_buf(&mut seen)).await.unwrap().unwrap() > 0);
    }
    node.open_gate();
    let rest = async { while stream.read_buf(&mut seen).await.unwrap() > 0 {} };
    timeout(SOON, rest).await.unwrap();
    let reply = client::read(&seen[..]).await;
    let events = caller.open(&reply).unwrap();
    assert!(matches!(events.last(), Some(AnswerEvent::Receipt(_))), "{events:?}");
}

#[tokio::test]
async fn time_of_a_request_is_over_when_its_caller_said() {
    let net = Net::start().await;
    let node = net.sealing_node(vec![Step::text("a"), Step::Wait]).await;
    let ttl = std::time::Duration::from_millis(200);
    let terms = Terms { ttl, shape: Shape::Off, ..Terms::new(model(), now()) };
    let reply = net.relay(&Caller::with(&net, &node.certificate(), terms).request).await;
    assert_eq!(advice(&reply), json!("timeout"));
    let settlement = &net.books("settlement", 1).await[0];
    assert_eq!((&settlement["state"], &settlement["limit_ms"]), (&json!("expired"), &json!(200)));
}
