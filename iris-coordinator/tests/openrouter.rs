//! A service outside that says how hard questions are: what it is told, and what becomes of
//! whatever it answers.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

use std::time::Duration;

use iris_coordinator::classify::{ClassifierChain, OpenRouter, Readers};
use iris_core::classify::{Classifier, ClassifyError, Question, Rules};
use iris_core::demand::Difficulty;
use iris_protocol::rest::Secret;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const KEY: &str = "sk-or-hunter2";
/// The rules have no opinion of it.
const UNKNOWN: &str = "Beweise, dass es unendlich viele Primzahlen gibt.";

/// What a service does with a request.
#[derive(Clone)]
enum Says {
    Answer(u16, String),
    Redirect(String),
    Nothing,
}

impl Says {
    fn word(word: &str) -> Self {
        Self::Answer(200, json!({ "choices": [{ "message": { "content": word } }] }).to_string())
    }
}

/// A service on this machine.
struct Service {
    url: String,
    seen: mpsc::UnboundedReceiver<(String, Value)>,
}

impl Service {
    async fn start(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/api/v1", listener.local_addr().unwrap());
        let (sender, seen) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                sender.send(read(&mut stream).await).unwrap();
                let reply = match &says {
                    Says::Answer(status, body) => {
                        let length = body.len();
                        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}")
                    }
                    Says::Redirect(to) => {
                        format!("HTTP/1.1 307 X\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
                    }
                    Says::Nothing => String::new(),
                };
                // It may have been given up by now.
                let _ = stream.write_all(reply.as_bytes()).await;
                held.push(stream);
            }
        });
        Self { url, seen }
    }

    fn classifier(&self) -> OpenRouter {
        let model = "small/judge".parse().unwrap();
        OpenRouter::new(&self.url, &Secret::new(KEY), model).unwrap()
    }
}

/// Reads one request: its head, and its body as JSON.
async fn read(stream: &mut TcpStream) -> (String, Value) {
    let mut bytes = Vec::new();
    loop {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the request is cut");
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() >= length.parse().unwrap() {
            return (head.to_owned(), serde_json::from_str(body).unwrap());
        }
    }
}

async fn ask(service: &Service, text: &str) -> Result<Option<Difficulty>, ClassifyError> {
    service.classifier().classify(&Question::new(text)).await
}

async fn chained(service: &Service, text: &str, readers: Readers) -> Difficulty {
    let chain = ClassifierChain::new().then(Rules).then(service.classifier());
    chain.classify(&Question::new(text), readers).await
}

#[tokio::test]
async fn service_is_asked_for_one_word_about_a_cut_question() {
    let mut service = Service::start(Says::word("ADVANCED")).await;
    assert_eq!(ask(&service, &"東".repeat(100_000)).await, Ok(Some(Difficulty::Advanced)));
    let (head, body) = service.seen.recv().await.unwrap();
    assert!(head.starts_with("POST /api/v1/chat/completions HTTP/1.1"), "{head}");
    assert!(head.contains(&format!("authorization: Bearer {KEY}")), "{head}");
    assert_eq!((&body["model"], &body["max_tokens"]), (&json!("small/judge"), &json!(8)));
    let length = body["messages"][1]["content"].as_str().unwrap().len();
    assert!(length < Question::MAX_LEN + 200, "{length}");
    assert_eq!(ask(&service, "").await, Ok(None), "there is nothing to ask");
    assert!(service.seen.try_recv().is_err());
}

#[tokio::test]
async fn service_that_fails_or_talks_is_passed_over() {
    let many =
        json!({ "choices": [{ "message": { "content": "SIMPLE" } }], "x": "x".repeat(70_000) });
    for (says, error) in [
        (Says::Answer(500, String::new()), ClassifyError::Unavailable),
        (Says::Answer(429, String::new()), ClassifyError::Unavailable),
        (Says::Answer(401, String::new()), ClassifyError::Refused),
        (Says::Answer(402, String::new()), ClassifyError::Refused),
        (Says::Answer(200, "SIMPLE".to_owned()), ClassifyError::Malformed),
        (Says::Answer(200, many.to_string()), ClassifyError::Malformed),
        (Says::word("SIMPLE, I think"), ClassifyError::Malformed),
    ] {
        let service = Service::start(says).await;
        assert_eq!(ask(&service, UNKNOWN).await, Err(error));
        assert_eq!(chained(&service, UNKNOWN, Readers::Any).await, Difficulty::Complex);
        let next = Service::start(Says::word("SIMPLE")).await;
        let chain = ClassifierChain::new().then(service.classifier()).then(next.classifier());
        let said = chain.classify(&Question::new(UNKNOWN), Readers::Any).await;
        assert_eq!(said, Difficulty::Simple, "the next one is asked");
    }
}

#[tokio::test]
async fn service_that_hangs_or_is_not_there_has_its_time_and_no_more() {
    let service = Service::start(Says::Nothing).await;
    let limit = Duration::from_millis(50);
    let hanging = service.classifier().with_time_limit(limit);
    assert_eq!(hanging.time_limit(), limit);
    // Without the chain's own watch over it, and well before this test gives up.
    let question = Question::new(UNKNOWN);
    let said = tokio::time::timeout(Duration::from_secs(10), hanging.classify(&question)).await;
    assert_eq!(said, Ok(Err(ClassifyError::Unavailable)));
    let chain = ClassifierChain::new().then(hanging);
    let said = chain.classify(&Question::new(UNKNOWN), Readers::Any).await;
    assert_eq!(said, Difficulty::Complex);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let gone = OpenRouter::new(&url, &Secret::new(KEY), "m".parse().unwrap()).unwrap();
    let said = gone.classify(&Question::new(UNKNOWN)).await;
    assert_eq!(said, Err(ClassifyError::Unavailable));
}

#[tokio::test]
async fn attack_46_outside_service_sees_what_the_rules_do_not_know_and_anybody_may_read() {
    let mut service = Service::start(Says::word("ADVANCED")).await;
    assert_eq!(chained(&service, "What is a noun?", Readers::Any).await, Difficulty::Simple);
    assert_eq!(chained(&service, UNKNOWN, Readers::Named).await, Difficulty::Complex);
    assert!(service.seen.try_recv().is_err(), "it has seen nothing");
    assert_eq!(chained(&service, UNKNOWN, Readers::Any).await, Difficulty::Advanced);
    let (_, body) = service.seen.recv().await.unwrap();
    assert!(body["messages"][1]["content"].as_str().unwrap().contains(UNKNOWN));
}

#[tokio::test]
async fn attack_46_redirect_takes_neither_key_nor_prompt_elsewhere() {
    let mut elsewhere = Service::start(Says::word("SIMPLE")).await;
    let service = Service::start(Says::Redirect(elsewhere.url.clone())).await;
    assert_eq!(ask(&service, UNKNOWN).await, Err(ClassifyError::Refused));
    assert!(elsewhere.seen.try_recv().is_err());
}

#[tokio::test]
async fn key_is_in_no_text_about_the_classifier() {
    let service = Service::start(Says::Answer(401, format!("bad key {KEY}"))).await;
    let error = ask(&service, UNKNOWN).await.unwrap_err();
    let classifier = service.classifier();
    let bad = OpenRouter::new(&service.url, &Secret::new("hunter2\n"), "m".parse().unwrap());
    let bad = bad.unwrap_err();
    let shown = format!("{classifier:?} {error:?} {error} {bad:?} {bad}");
    assert!(!shown.contains("hunter2") && !shown.contains("127.0.0.1"), "{shown}");
}
