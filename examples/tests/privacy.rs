//! What is written down and sent around, searched for what must not be in it.
//!
//! Each test gives the network something unique and then looks for it wherever the coordinator
//! and its nodes leave bytes: their logs at the finest level, the files of the database, every
//! frame between them.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod live;
mod scanner;

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};

use futures::{Sink, Stream};
use iris_coordinator::http::{ApiSettings, ServerSettings};
use iris_coordinator::store::SqliteStore;
use iris_core::backend::{BackendError, Gate, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::task::TaskState;
use iris_node::agent::{ConnectError, Connector, Link};
use iris_protocol::Frame;
use iris_protocol::transport::TransportError;
use iris_protocol::transport::websocket::{IntoClientRequest, WebSocket};
use live::caller::Request;
use live::{Live, MODEL, chat, until};
use scanner::{Secret, assert_absent, finds};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

const DATABASE: &str = "the database";
const LOGS: &str = "the logs";
const FRAMES: &str = "the frames between coordinator and node";

#[test]
fn search_finds_what_it_looks_for_in_every_form() {
    let text = "a prompt that nobody else may read";
    let secret = Secret::text("prompt", text);
    let open = Request::post("/v1/chat/completions", chat(text, false)).bytes();
    assert!(finds(&secret, &open), "an open request holds its prompt");
    let coded = |coder: data_encoding::Encoding, before: &str| {
        coder.encode(format!("{before}{text} and more").as_bytes()).into_bytes()
    };
    for before in ["", "x", "xy", "xyz", "wxyz"] {
        assert!(finds(&secret, &coded(data_encoding::HEXLOWER, before)));
        assert!(finds(&secret, &coded(data_encoding::HEXUPPER, before)));
        assert!(finds(&secret, &coded(data_encoding::BASE64, before)));
        assert!(finds(&secret, &coded(data_encoding::BASE64URL, before)));
        assert!(finds(&secret, &coded(data_encoding::BASE32, before)));
        assert!(finds(&secret, &coded(data_encoding::BASE32, before).to_ascii_lowercase()));
    }
    let utf16 = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        format!("x{text}y").encode_utf16().flat_map(bytes).collect()
    };
    assert!(finds(&secret, &utf16(u16::to_le_bytes)) && finds(&secret, &utf16(u16::to_be_bytes)));
    assert!(!finds(&secret, text.replace("nobody", "anybody").as_bytes()));
}

#[tokio::test]
async fn prompts_and_answers_of_chats_are_nowhere_in_logs_database_and_frames() {
    let (prompt, answer) = (unique("prompt"), unique("answer"));
    let said = answer.clone();
    let watched = Watched::start().await;
    let node = watched.join(move |_| Script::new().text(said.clone())).await;
    for stream in [false, true] {
        let mut reply = watched.live.send(watched.live.chat(&prompt, stream)).await;
        assert!(reply.text().await.unwrap().contains(&answer), "the caller gets the answer");
    }
    let body = json!({"model": MODEL, "prompt": prompt});
    let completion = Request::post("/v1/completions", body).bearer(&watched.live.key);
    assert_eq!(watched.live.ask(&prompt).await, answer);
    assert!(watched.live.send(completion).await.text().await.unwrap().contains(&answer));
    assert!(finds(&Secret::text("prompt", &prompt), &node.received()), "the node reads it");
    watched.assert_absent(&[Secret::text("prompt", &prompt), Secret::text("answer", &answer)]);
    assert_eq!(watched.live.settlements().await.len(), 4);
    watched.assert_absent(&[Secret::text("prompt", &prompt), Secret::text("answer", &answer)]);
}

#[tokio::test]
async fn durable_tasks_are_sealed_in_the_database_while_they_wait_and_after() {
    let (prompt, answer) = (unique("prompt"), unique("answer"));
    let secrets = [
        Secret::text("prompt", &prompt),
        Secret::text("answer", &answer),
        Secret::text("idempotency key", &format!("key of {prompt}")),
    ];
    let (gate, said) = (Gate::new(), answer.clone());
    let watched = Watched::start().await;
    let node = {
        let gate = gate.clone();
        watched.join(move |_| Script::new().wait(&gate).text(said.clone())).await
    };
    let body = json!({"model": MODEL, "prompt": prompt});
    let request = Request::post("/inference", body)
        .bearer(&watched.live.key)
        .header("idempotency-key", &format!("key of {prompt}"));
    let accepted = watched.live.send(request).await.json().await;
    let id = accepted["id"].as_str().unwrap().to_owned();
    until("the node works", || node.backend.counts().running == 1).await;
    assert!(finds(&Secret::text("id", &id), &watched.database()), "the task is written down");
    watched.assert_absent(&secrets);
    gate.open();
    assert_eq!(watched.result(&id).await["result"]["text"], answer.as_str());
    watched.assert_absent(&secrets);
    watched.live.coordinator.shutdown().await;
    watched.assert_absent(&secrets);
}

#[tokio::test]
async fn errors_that_quote_a_prompt_leave_it_in_neither_logs_nor_database() {
    let prompt = unique("prompt");
    let secrets = [Secret::text("prompt", &prompt)];
    let quoted = format!("cannot work on {prompt:?}");
    let watched = Watched::start().await;
    let node = watched
        .join(move |_| {
            Script::new().fail(BackendError::Rejected {
                status: 400,
                code: None,
                param: None,
                message: quoted.clone(),
            })
        })
        .await;
    let live = &watched.live;
    for stream in [false, true] {
        let mut reply = live.send(live.chat(&prompt, stream)).await;
        assert!(reply.text().await.unwrap().contains(&prompt), "the caller learns what is wrong");
    }
    let body = json!({"model": MODEL, "prompt": prompt});
    let request = Request::post("/inference", body).bearer(&live.key);
    let id = live.send(request).await.json().await["id"].as_str().unwrap().to_owned();
    let result = watched.result(&id).await;
    assert_eq!(result["error"]["code"], "rejected", "{result}");
    assert!(result["error"]["message"].as_str().unwrap().contains(&prompt), "{result}");
    // Requests that the coordinator itself refuses, for their prompts or by accident.
    let refused = [
        Request::post("/v1/chat/completions", format!("{{\"model\":{prompt:?}")),
        Request::post("/v1/chat/completions", json!({"model": MODEL, "messages": prompt})),
        Request::post("/inference", json!({"model": MODEL, "prompt": {"text": prompt}})),
        Request::post(&format!("/v1/{prompt}"), "{}"),
    ];
    for request in refused {
        let reply = live.send(request.bearer(&live.key)).await;
        assert!((400..500).contains(&reply.status), "{}", reply.status);
    }
    assert_eq!(node.backend.counts().failed, 3);
    assert_absent(&secrets, &[(DATABASE, watched.database()), (LOGS, log().bytes())]);
    live.coordinator.shutdown().await;
    assert_absent(&secrets, &[(DATABASE, watched.database()), (LOGS, log().bytes())]);
}

#[tokio::test]
async fn keys_are_in_neither_logs_nor_database() {
    let watched = Watched::start().await;
    let _node = watched.join(|_| Script::new().text("hello")).await;
    let live = &watched.live;
    let account = live.send(Request::post("/accounts/generate", "")).await.json().await;
    let account_key = account["account_key"].as_str().unwrap();
    let mint = |scope: &str| {
        let body = json!({"account_key": account_key, "scope": scope});
        live.send(Request::post("/accounts/keys", body))
    };
    let minted = mint("inference").await.json().await["key"].as_str().unwrap().to_owned();
    let node_key = mint("node").await.json().await["key"].as_str().unwrap().to_owned();
    let ask = Request::post("/v1/chat/completions", chat("hi", false)).bearer(&minted);
    assert_eq!(live.send(ask).await.status, 200);
    assert_eq!(live.send(Request::upgrade().bearer(&node_key)).await.status, 101);
    // Where keys do not belong, but where programs send them.
    for key in [&minted, &node_key, account_key] {
        for misplaced in [
            Request::get(&format!("/v1/models?api_key={key}")),
            Request::get(&format!("/v1/models/{key}")).bearer(&minted),
            Request::get(&format!("/{key}")),
            Request::get("/v1/models").bearer(&format!("{key}x")),
            Request::get("/v1/models").header("authorization", key),
            Request::post("/accounts/keys", json!({"account_key": key, "scope": key})),
        ] {
            assert!((400..500).contains(&live.send(misplaced).await.status));
        }
    }
    let mut secrets = vec![
        Secret::text("account key", account_key),
        Secret::text("account key's digits", &digits(account_key)),
        Secret::bytes("coordinator's secret", live.secret.reveal()),
    ];
    for key in [&minted, &node_key, &live.key, &live.node_key] {
        let random = key.strip_prefix("iris_").unwrap();
        secrets.push(Secret::text("API key", random));
        let bytes = data_encoding::BASE32_NOPAD.decode(random.to_ascii_uppercase().as_bytes());
        secrets.push(Secret::bytes("API key's bytes", &bytes.unwrap()));
    }
    assert_absent(&secrets, &[(DATABASE, watched.database()), (LOGS, log().bytes())]);
    live.coordinator.shutdown().await;
    assert_absent(&secrets, &[(DATABASE, watched.database()), (LOGS, log().bytes())]);
}

fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

#[tokio::test]
async fn nodes_learn_neither_account_nor_address_of_the_caller() {
    const ADDRESS: &str = "203.0.113.77";
    let prompt = unique("prompt");
    let watched = Watched::start().await;
    let node = watched.join(|_| Script::new().text("hello")).await;
    let (live, agent) = (&watched.live, unique("browser"));
    for stream in [false, true] {
        let request = live.chat(&prompt, stream).header("x-forwarded-for", ADDRESS);
        let mut reply = live.send(request.header("user-agent", &agent)).await;
        assert_eq!(reply.status, 200);
        reply.text().await.unwrap();
    }
    let request = Request::post("/inference", json!({"model": MODEL, "prompt": prompt}))
        .bearer(&live.key)
        .header("x-forwarded-for", ADDRESS)
        .header("idempotency-key", &agent);
    let id = live.send(request).await.json().await["id"].as_str().unwrap().to_owned();
    assert_eq!(watched.result(&id).await["status"], "finished");
    assert!(finds(&Secret::text("prompt", &prompt), &node.received()), "it gets the prompt");
    assert!(finds(&Secret::text("model", "\"model\":\"m\""), &watched.frames.bytes()));
    let account = live.caller.to_string();
    let bytes = data_encoding::HEXLOWER.decode(account.as_bytes()).unwrap();
    let secrets = [
        Secret::text("the caller's account", &account),
        Secret::bytes("the caller's account in bytes", &bytes),
        Secret::text("the caller's key", &live.key),
        Secret::text("the caller's address", ADDRESS),
        Secret::text("the caller's program", &agent),
    ];
    let places = [(FRAMES, watched.frames.bytes()), ("what the backend gets", node.received())];
    assert_absent(&secrets, &places);
}

#[tokio::test]
async fn addresses_of_callers_are_in_neither_logs_nor_database() {
    const ADDRESS: &str = "198.51.100.203";
    let watched = Watched::start().await;
    let _node = watched.join(|_| Script::new().text("hello")).await;
    let live = &watched.live;
    let from = |request: Request| request.header("x-forwarded-for", ADDRESS);
    assert_eq!(live.send(from(live.chat("hi", false))).await.status, 200);
    let wrong = json!({"account_key": "1", "scope": "node"});
    for _ in 0..6 {
        let reply = live.send(from(Request::post("/accounts/keys", wrong.clone()))).await;
        assert!((400..500).contains(&reply.status), "counted by address");
    }
    live.coordinator.shutdown().await;
    let secrets = [Secret::text("the caller's address", ADDRESS)];
    assert_absent(&secrets, &[(DATABASE, watched.database()), (LOGS, log().bytes())]);
}

/// A network whose database, logs and frames can be looked through.
struct Watched {
    live: Live,
    frames: Record,
    folder: TempDir,
}

/// A node of a [`Watched`] network, and what reached its backend.
struct Node {
    backend: ScriptedBackend,
    received: Record,
    _agent: AbortOnDropHandle<()>,
}

impl Watched {
    async fn start() -> Self {
        log();
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("iris.db"), &[]).unwrap();
        let api = ApiSettings::default()
            .with_open_registration(true)
            .with_trusted_proxies(vec!["127.0.0.1".parse().unwrap()]);
        let settings = ServerSettings::default().with_api(api);
        let live = Live::start_with(Arc::new(store), settings, |builder| builder).await;
        Self { live, frames: Record::default(), folder }
    }

    async fn join(&self, answer: impl Fn(usize) -> Script + Send + Sync + 'static) -> Node {
        let received = Record::default();
        let record = received.clone();
        let offers = [ModelOffer::new(MODEL.parse().unwrap(), 8192)];
        let backend = ScriptedBackend::new(offers, move |request| {
            record.add(format!("{request:?}").as_bytes());
            record.add(&request.body);
            answer(request.body.len())
        });
        let agent = live::join(backend.clone(), 2, self.connector()).await;
        Node { backend, received, _agent: agent }
    }

    /// Connects by WebSocket and keeps a copy of every frame.
    fn connector(&self) -> impl Connector + use<> {
        let (address, key) = (self.live.address, self.live.node_key.clone());
        let frames = self.frames.clone();
        move || {
            let (key, frames) = (key.clone(), frames.clone());
            async move {
                let url = format!("ws://{address}/nodes/connect");
                let mut request = url.clone().into_client_request().unwrap();
                let bearer = format!("Bearer {key}").parse().unwrap();
                request.headers_mut().insert("authorization", bearer);
                let unreachable = |cause: String| ConnectError::Unreachable {
                    endpoint: url.clone().into(),
                    cause,
                };
                let stream = TcpStream::connect(address).await;
                let stream = stream.map_err(|error| unreachable(error.to_string()))?;
                let socket = WebSocket::client(stream, request).await;
                let inner = socket.map_err(|error| unreachable(error.to_string()))?;
                Ok(Link::new(url, Tapped { inner, frames }))
            }
        }
    }

    /// Waits for a durable task and returns how it stands then.
    async fn result(&self, id: &str) -> serde_json::Value {
        let wait = async {
            loop {
                let request = Request::get(&format!("/inference/{id}")).bearer(&self.live.key);
                let status = self.live.send(request).await.json().await;
                let state: TaskState = serde_json::from_value(status["status"].clone()).unwrap();
                if state.is_terminal() {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(live::SOON, wait).await.expect("the task ends")
    }

    /// Returns every byte of the database's files, its log of late writes included.
    fn database(&self) -> Vec<u8> {
        files(self.folder.path())
    }

    fn assert_absent(&self, secrets: &[Secret]) {
        let places =
            [(DATABASE, self.database()), (LOGS, log().bytes()), (FRAMES, self.frames.bytes())];
        assert_absent(secrets, &places);
        let line = Secret::text("a line of the logs", "answered request=");
        assert!(finds(&line, &log().bytes()), "requests are logged");
    }
}

impl Node {
    fn received(&self) -> Vec<u8> {
        self.received.bytes()
    }
}

fn files(folder: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(folder).unwrap();
    files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

/// A text that is nowhere by chance.
fn unique(what: &str) -> String {
    let number = data_encoding::HEXLOWER.encode(&iris_crypto::random_bytes::<16>());
    format!("a-{what}-{number}-that-is-told-to-nobody")
}

/// Bytes that were seen somewhere.
#[derive(Clone, Default)]
struct Record(Arc<Mutex<Vec<u8>>>);

impl Record {
    fn add(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl io::Write for Record {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Everything that anybody in this process logs, at the finest level.
fn log() -> &'static Record {
    static LOG: OnceLock<Record> = OnceLock::new();
    LOG.get_or_init(|| {
        let record = Record::default();
        let writer = record.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        record
    })
}

/// A transport whose frames are recorded.
struct Tapped<T> {
    inner: T,
    frames: Record,
}

impl<T> Tapped<T> {
    fn record(&self, frame: &Frame) {
        match frame {
            Frame::Text(text) => self.frames.add(text.as_bytes()),
            Frame::Binary(bytes) => self.frames.add(bytes),
        }
    }
}

impl<T: Stream<Item = Result<Frame, TransportError>> + Unpin> Stream for Tapped<T> {
    type Item = Result<Frame, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.inner).poll_next(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.record(frame);
        }
        polled
    }
}

impl<T: Sink<Frame, Error = TransportError> + Unpin> Sink<Frame> for Tapped<T> {
    type Error = TransportError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.inner).poll_ready(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, frame: Frame) -> Result<(), Self::Error> {
        self.record(&frame);
        Pin::new(&mut self.inner).start_send(frame)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
