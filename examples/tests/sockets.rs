//! Real sockets: what callers and nodes on the other end of them see, and cannot do.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod live;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use iris_coordinator::http::{ApiSettings, ServerSettings};
use iris_core::backend::{
    Backend, BackendError, Chunk, Gate, GenerateRequest, Script, ScriptedBackend,
};
use iris_core::model::ModelOffer;
use iris_core::store::MemoryStore;
use iris_core::task::TaskState;
use live::caller::{self, Request};
use live::{Live, MODEL, SOON, chat, echo, scripted, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn streamed_chat_arrives_exactly_as_the_node_said_it() {
    let live = Live::start().await;
    let words = ["Grüße, ", "\"quoted\" ", "\u{1f600} ", "data: [DONE]\n\n", "\u{2028}end\\"];
    let _node = live.join(scripted(Script::saying(words)), 1).await;
    let mut reply = live.send(live.chat("hi", true)).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let mut heard = Vec::new();
    let mut last = String::new();
    while let Some(event) = reply.event().await.unwrap() {
        heard.extend(caller::text_of(&event));
        last = event;
    }
    assert_eq!(heard, words);
    assert_eq!(last, "[DONE]");
    live.is_idle().await;
}

#[tokio::test]
async fn caller_who_hangs_up_frees_the_node_within_a_second() {
    let live = Live::start().await;
    let backend = scripted(Script::new().text("a").wait(&Gate::new()));
    let _node = live.join(backend.clone(), 1).await;
    let mut reply = live.send(live.chat("hi", true)).await;
    assert_eq!(reply.word().await.unwrap().as_deref(), Some("a"));
    assert_eq!((backend.counts().running, live.slots_in_use()), (1, 1));
    let hung_up = Instant::now();
    drop(reply);
    until("the node is free", || backend.counts().cancelled == 1).await;
    live.is_idle().await;
    assert!(hung_up.elapsed() < Duration::from_secs(1), "{:?}", hung_up.elapsed());
    let rows = live.settlements().await;
    assert_eq!((rows.len(), rows[0].state), (1, TaskState::Cancelled));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_slows_its_own_stream_only() {
    const PIECE: usize = 16 << 10;
    let live = Live::start().await;
    let pieces = |count| Script::saying(std::iter::repeat_n("x".repeat(PIECE), count));
    // The long answer is more than all buffers between the node and its caller hold.
    let (long, short) = (pieces(350), pieces(20));
    let offers = [ModelOffer::new(MODEL.parse().unwrap(), 8192)];
    let scripted = ScriptedBackend::new(offers, move |request| {
        let asks_for_long = request.body.windows(4).any(|word| word == b"long");
        if asks_for_long { long.clone() } else { short.clone() }
    });
    let backend = Counting { scripted, said: Arc::default() };
    let _node = live.join(backend.clone(), 2).await;
    let mut slow = live.send(live.chat("long", true)).await;
    let said = backend.halt().await;
    assert!(said < 350, "the node is held up after {said}");
    assert_eq!(read(&mut live.send(live.chat("short", true)).await).await, 20 * PIECE);
    until("the fast stream is over", || backend.scripted.counts().finished == 1).await;
    assert_eq!((backend.scripted.counts().running, live.slots_in_use()), (1, 1));
    assert_eq!(read(&mut slow).await, 350 * PIECE, "nothing is lost");
    live.is_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caller_who_reads_nothing_is_left_and_what_it_asked_for_is_cancelled() {
    const PIECE: usize = 16 << 10;
    let settings = ServerSettings::default().with_stall(Duration::from_millis(500));
    let live = Live::start_with(Arc::new(MemoryStore::new()), settings, |builder| builder).await;
    let endless = Script::saying(std::iter::repeat_n("x".repeat(PIECE), 2000));
    let backend = scripted(endless);
    let _node = live.join(backend.clone(), 1).await;
    let mut reply = live.send(live.chat("hi", true)).await;
    until("the node is free", || backend.counts().cancelled == 1).await;
    live.is_idle().await;
    assert_eq!(live.coordinator.stats().cancelled, 1);
    // What lies in the buffers can still be read, and then the answer breaks off.
    let broken = loop {
        match reply.word().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ends as if it were complete"),
            Err(error) => break error,
        }
    };
    println!("{broken}");
    assert_eq!(live.settlements().await[0].state, TaskState::Cancelled);
}

/// A backend that counts what it has said.
#[derive(Clone, Debug)]
struct Counting {
    scripted: ScriptedBackend,
    said: Arc<AtomicUsize>,
}

impl Counting {
    /// Waits until nothing was said for a while, and returns how much was said by then.
    async fn halt(&self) -> usize {
        loop {
            let said = self.said.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(300)).await;
            if said > 0 && said == self.said.load(Ordering::Relaxed) {
                return said;
            }
        }
    }
}

impl Backend for Counting {
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
        self.scripted.models()
    }

    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxStream<'static, Result<Chunk, BackendError>> {
        let said = Arc::clone(&self.said);
        let count = move |_: &_| {
            said.fetch_add(1, Ordering::Relaxed);
        };
        self.scripted.generate(request).inspect(count).boxed()
    }
}

/// Reads a stream to its end and returns how long its text is.
async fn read(reply: &mut caller::Reply) -> usize {
    assert_eq!(reply.status, 200);
    let mut length = 0;
    while let Some(word) = reply.word().await.unwrap() {
        length += word.len();
    }
    length
}

#[tokio::test]
async fn requests_one_after_the_other_share_a_connection_and_leak_no_slot() {
    let live = Live::start().await;
    let _node = live.join(echo(), 1).await;
    let mut connection = None;
    for number in 0..100 {
        let (prompt, stream) = (format!("question {number}"), number % 2 == 0);
        let mut reply = live.send_on(&mut connection, live.chat(&prompt, stream)).await;
        assert_eq!(reply.status, 200);
        let mut answer = String::new();
        if stream {
            while let Some(word) = reply.word().await.unwrap() {
                answer.push_str(&word);
            }
        } else {
            let whole = reply.json().await;
            answer.push_str(whole["choices"][0]["message"]["content"].as_str().unwrap());
        }
        assert_eq!(answer, prompt);
        connection = Some(reply.into_connection());
    }
    live.is_idle().await;
    assert_eq!(live.settlements().await.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_side_by_side_get_their_own_answers_and_leak_no_slot() {
    // Whoever stands in line on a slow machine is not sent away.
    let (store, settings) = (Arc::new(MemoryStore::new()), ServerSettings::default());
    let live = Live::start_with(store, settings, |builder| builder.with_patience(u32::MAX)).await;
    let _nodes = [live.join(echo(), 4).await, live.join(echo(), 4).await];
    let prompts: Vec<_> = (0..32).map(|number| format!("question {number}")).collect();
    let answers = futures::future::join_all(prompts.iter().map(|prompt| live.ask(prompt))).await;
    assert_eq!(answers, prompts);
    live.is_idle().await;
    assert_eq!(live.settlements().await.len(), 32);
}

#[tokio::test]
async fn every_door_opens_to_its_own_kind_of_key_only() {
    let live = Live::start().await;
    let _node = live.join(echo(), 1).await;
    let models = || Request::get("/v1/models");
    let ask = || Request::post("/v1/chat/completions", chat("hi", false));
    let cases = [
        ("a caller's key does not let nodes in", Request::upgrade().bearer(&live.key), 403),
        ("a node's key does not ask", ask().bearer(&live.node_key), 403),
        ("a node's key does not look", models().bearer(&live.node_key), 403),
        ("a node shows a key", Request::upgrade(), 401),
        ("a caller shows a key", ask(), 401),
        (
            "a web page is no node",
            Request::upgrade().bearer(&live.node_key).header("origin", "https://evil.example"),
            403,
        ),
        ("accounts are not opened unasked", Request::post("/accounts/generate", ""), 403),
        ("a caller's key asks", ask().bearer(&live.key), 200),
        ("a node's key lets nodes in", Request::upgrade().bearer(&live.node_key), 101),
    ];
    for (rule, request, status) in cases {
        assert_eq!(live.send(request).await.status, status, "{rule}");
    }
}

#[tokio::test]
async fn oversized_and_endlessly_nested_bodies_are_refused_by_type() {
    let settings =
        ServerSettings::default().with_api(ApiSettings::default().with_body_limit(64 << 10));
    let live = Live::start_with(Arc::new(MemoryStore::new()), settings, |builder| builder).await;
    let _node = live.join(echo(), 1).await;
    let deep = format!(r#"{{"model":"{MODEL}","messages":{}"#, "[".repeat(60 << 10));
    let long = chat(&"x".repeat(65 << 10), false).to_string();
    for path in ["/v1/chat/completions", "/inference"] {
        let reply = live.send(Request::post(path, &long).bearer(&live.key)).await;
        assert_eq!((reply.status, code(reply).await), (413, json!("request_too_large")), "{path}");
        let reply = live.send(Request::post(path, &deep).bearer(&live.key)).await;
        assert_eq!((reply.status, code(reply).await), (400, json!(null)), "{path}");
    }
    assert_eq!(live.ask("still there?").await, "still there?");
}

async fn code(mut reply: caller::Reply) -> Value {
    let error = reply.json().await["error"].take();
    assert!(error["message"].is_string() && error["type"] == "invalid_request_error", "{error}");
    error["code"].clone()
}

#[tokio::test]
async fn junk_at_the_door_for_nodes_disturbs_nobody() {
    let live = Live::start().await;
    let gate = Gate::new();
    let _node = live.join(scripted(Script::new().text("a ").wait(&gate).text("b")), 1).await;
    let mut healthy = live.send(live.chat("hi", true)).await;
    assert_eq!(healthy.word().await.unwrap().as_deref(), Some("a "));
    let register = json!({"type": "NODE_REGISTER", "version": 1, "slots": 1_000_000}).to_string();
    let deep = "[".repeat(100 << 10);
    let junk = [
        b"\x00\xff not a frame at all \r\n\r\n".to_vec(),
        masked(0x1, b"not JSON"),
        masked(0x1, b"\xff\xfe"),
        masked(0x1, deep.as_bytes()),
        masked(0x1, register.as_bytes()),
        masked(0x1, br#"{"type":"NODE_HEARTBEAT","running":0}"#),
        masked(0x2, &[0xff; 1000]),
        // The head of a frame of 2^62 bytes.
        b"\x82\xff\x40\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
    ];
    for bytes in junk {
        let mut socket = knock(&live).await;
        socket.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(SOON, socket.read_to_end(&mut rest)).await;
        // Closed in order or reset, but closed.
        let _ = closed.expect("the coordinator hangs up");
    }
    // Registrations that break off are forgotten.
    let whole = masked(0x1, register.as_bytes());
    for length in [0, 1, 2, 6, whole.len() / 2] {
        let mut socket = knock(&live).await;
        socket.write_all(&whole[..length]).await.unwrap();
    }
    assert_eq!(live.coordinator.stats().nodes, 1);
    gate.open();
    assert_eq!(healthy.word().await.unwrap().as_deref(), Some("b"));
    assert_eq!(healthy.word().await.unwrap(), None);
    live.is_idle().await;
}

/// Opens a WebSocket as a node would.
async fn knock(live: &Live) -> tokio::io::BufReader<tokio::net::TcpStream> {
    let reply = live.send(Request::upgrade().bearer(&live.node_key)).await;
    assert_eq!(reply.status, 101);
    reply.into_connection()
}

/// Makes a WebSocket frame under a mask of zeros.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0x80 | 127];
    frame.extend((payload.len() as u64).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}
