//! Callers who never rest, and who check every answer.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::live::caller::{self, Reply, Request, text_of};
use crate::live::{MODEL, chat};
use crate::network::{Network, Outages};

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a network that is being hurt may say in place of an answer.
const EXCUSES: [&str; 6] = [
    "interrupted",
    "no_node_online",
    "nodes_failed",
    "rate_limit_exceeded",
    "unavailable",
    "too_many_connections",
];

/// Callers at work.
pub(crate) struct Load {
    stop: CancellationToken,
    workers: JoinSet<()>,
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    key: String,
    outages: Arc<Outages>,
    next: AtomicUsize,
    tally: Mutex<Tally>,
}

/// What callers got.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) whole: usize,
    pub(crate) streamed: usize,
    pub(crate) hung_up: usize,
    /// Connections that broke with the coordinator.
    pub(crate) broken: usize,
    /// Typed errors by their code; after a part of the answer, `partly` is added.
    pub(crate) errors: BTreeMap<String, usize>,
    /// The task of each durable question that was accepted.
    pub(crate) accepted: BTreeMap<usize, String>,
}

impl Load {
    /// Lets `callers` ask for whole, streamed and durable answers until they are stopped.
    pub(crate) fn begin(network: &Network, callers: usize) -> Self {
        let shared = Arc::new(Shared {
            address: network.address,
            key: network.key.clone(),
            outages: Arc::clone(&network.outages),
            next: AtomicUsize::new(0),
            tally: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let workers = (0..callers).map(|_| {
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            async move {
                while !stop.is_cancelled() {
                    let number = shared.next.fetch_add(1, Ordering::Relaxed);
                    let asked = tokio::time::timeout(PATIENCE, shared.ask(number)).await;
                    asked.unwrap_or_else(|_| panic!("question {number}: no end in {PATIENCE:?}"));
                }
            }
        });
        Self { workers: workers.collect(), stop, shared }
    }

    /// Fails if a caller has found a fault.
    pub(crate) fn check(&mut self) {
        if let Some(ended) = self.workers.try_join_next() {
            ended.unwrap();
        }
    }

    pub(crate) async fn stop(self) -> Tally {
        self.stop.cancel();
        self.workers.join_all().await;
        std::mem::take(&mut self.shared.tally.lock().unwrap())
    }
}

impl Tally {
    pub(crate) fn answered(&self) -> usize {
        self.whole + self.streamed
    }
}

/// A text whose repetition takes a while, and which no other question shares.
pub(crate) fn question(number: usize) -> String {
    format!("question {number} of many, and what is said in it comes back a word at a time")
}

impl Shared {
    async fn ask(&self, number: usize) {
        let outages = self.outages.count();
        let asked = match number % 6 {
            0 | 1 => self.ask_whole(number).await,
            2 | 3 => self.ask_streamed(number).await,
            4 => self.ask_durable(number).await,
            _ => self.hang_up(number).await,
        };
        if let Err(error) = asked {
            assert!(
                self.outages.excuse(outages),
                "question {number}: {error} from a live coordinator"
            );
            self.tally().broken += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap()
    }

    fn chat(&self, number: usize, stream: bool) -> Request {
        Request::post("/v1/chat/completions", chat(&question(number), stream)).bearer(&self.key)
    }

    async fn ask_whole(&self, number: usize) -> io::Result<()> {
        let mut reply = caller::send(self.address, &self.chat(number, false)).await?;
        if reply.status != 200 {
            return self.refused(reply).await;
        }
        let answer: Value = serde_json::from_str(&reply.text().await?).unwrap();
        assert_eq!(answer["choices"][0]["message"]["content"], question(number));
        self.tally().whole += 1;
        Ok(())
    }

    async fn ask_streamed(&self, number: usize) -> io::Result<()> {
        let mut reply = caller::send(self.address, &self.chat(number, true)).await?;
        if reply.status != 200 {
            return self.refused(reply).await;
        }
        let (mut answer, mut last) = (String::new(), String::new());
        while let Some(event) = reply.event().await? {
            answer.extend(text_of(&event));
            last = event;
        }
        let whole = question(number);
        if last == "[DONE]" {
            assert_eq!(answer, whole, "an answer that ends well is complete");
            self.tally().streamed += 1;
            return Ok(());
        }
        assert!(whole.starts_with(&answer), "{answer:?} is no part of {whole:?}");
        let error: Value = serde_json::from_str(&last).unwrap();
        self.excused(&error, " partly");
        Ok(())
    }

    async fn hang_up(&self, number: usize) -> io::Result<()> {
        let mut reply = caller::send(self.address, &self.chat(number, true)).await?;
        if reply.status != 200 {
            return self.refused(reply).await;
        }
        reply.word().await?;
        self.tally().hung_up += 1;
        Ok(())
    }

    async fn ask_durable(&self, number: usize) -> io::Result<()> {
        let body = json!({"model": MODEL, "prompt": question(number)});
        let request = Request::post("/inference", body)
            .bearer(&self.key)
            .header("idempotency-key", &format!("key {number}"));
        // Whoever has not heard asks again, until the coordinator says something.
        loop {
            let outages = self.outages.count();
            let reply = caller::send(self.address, &request).await;
            let Ok(mut reply) = reply else {
                assert!(self.outages.excuse(outages), "{reply:?} from a live coordinator");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            if reply.status != 202 {
                return self.refused(reply).await;
            }
            let Ok(status) = reply.text().await else { continue };
            let status: Value = serde_json::from_str(&status).unwrap();
            let id = status["id"].as_str().unwrap().to_owned();
            self.tally().accepted.insert(number, id);
            return Ok(());
        }
    }

    async fn refused(&self, mut reply: Reply) -> io::Result<()> {
        let error: Value = serde_json::from_str(&reply.text().await?).unwrap();
        assert!(reply.status >= 429, "{}: {error}", reply.status);
        self.excused(&error, "");
        // There may be nobody to answer for a moment.
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(())
    }

    fn excused(&self, error: &Value, suffix: &str) {
        let error = &error["error"];
        let code = error["code"].as_str().unwrap_or_else(|| panic!("{error}"));
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        assert!(EXCUSES.contains(&code), "{error}");
        *self.tally().errors.entry(format!("{code}{suffix}")).or_default() += 1;
    }
}
