//! No small write waits for the acknowledgement of the one before it.
//!
//! Systems hold acknowledgements back for 40 ms on connections that are used both ways, and a
//! sender without `TCP_NODELAY` holds a small write back until the last one is acknowledged: an
//! answer then comes in jerks. Here every byte passes all four sockets that Iris opens: the
//! coordinator's to its caller and to its node, the node's to its coordinator and to its model
//! server.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod live;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iris_node::backend::openai::OpenAiBackend;
use live::{Live, MODEL};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

/// A stall takes 40 ms, and what stalls does so nearly every time. A busy machine delays as long,
/// but leaves one of four alone.
const LIMIT: Duration = Duration::from_millis(30);
const TRIES: usize = 3;
const WORDS: usize = 6;

#[tokio::test]
async fn small_chunks_are_never_held_back_for_40_ms() {
    usually_quick("streams have a gap of", async |network: &mut Network| {
        network.longest_gap().await
    })
    .await;
}

#[tokio::test]
async fn short_and_long_prompts_are_never_held_back_for_40_ms() {
    usually_quick("requests take", async |network: &mut Network| {
        let mut longest = Duration::ZERO;
        for prompt in ["hi".to_owned(), "long ".repeat(20_000)] {
            longest = longest.max(network.whole_answer(&prompt).await);
        }
        // Long prompts are worked on for longer, which is no stall.
        longest.saturating_sub(network.work)
    })
    .await;
}

/// Measures twelve times on one network, and fails when more than three quarters take too long.
async fn usually_quick(what: &str, measure: impl AsyncFn(&mut Network) -> Duration) {
    let mut usual = Vec::new();
    for _ in 0..TRIES {
        let mut network = Network::start().await;
        let mut times = Vec::new();
        for _ in 0..12 {
            times.push(measure(&mut network).await);
        }
        times.sort_unstable();
        let quick = times[times.len() / 4];
        if quick < LIMIT {
            return;
        }
        usual.push(quick);
    }
    panic!("three quarters of all {what} {usual:?} or more");
}

/// A caller's connection, a coordinator, a node and a model server.
struct Network {
    live: Live,
    connection: Option<BufReader<TcpStream>>,
    /// Lets the model server say its next word.
    words: Arc<Semaphore>,
    /// How long the fastest answer took to a long prompt.
    work: Duration,
    _node: AbortOnDropHandle<()>,
    _server: AbortOnDropHandle<()>,
}

impl Network {
    async fn start() -> Self {
        let live = Live::start().await;
        let words = Arc::new(Semaphore::new(0));
        let (address, server) = model_server(Arc::clone(&words)).await;
        let backend = OpenAiBackend::builder(format!("http://{address}"));
        let backend = backend.with_context_length(1 << 20).build().unwrap();
        let node = live.join(backend, 1).await;
        let (connection, work) = (None, Duration::ZERO);
        let mut network = Self { live, connection, words, work, _node: node, _server: server };
        let long = "long ".repeat(20_000);
        let mut times = Vec::new();
        for _ in 0..6 {
            times.push(network.whole_answer(&long).await);
        }
        network.work = times.into_iter().min().unwrap();
        network
    }

    /// Asks for a stream word by word, and returns the longest time that one took.
    async fn longest_gap(&mut self) -> Duration {
        let request = self.live.chat("hi", true);
        let mut asked = Instant::now();
        self.words.add_permits(1);
        let mut reply = self.live.send_on(&mut self.connection, request).await;
        let mut longest = Duration::ZERO;
        for word in 1..=WORDS {
            assert_eq!(reply.word().await.unwrap().as_deref(), Some("word "));
            longest = longest.max(asked.elapsed());
            if word < WORDS {
                asked = Instant::now();
                self.words.add_permits(1);
            }
        }
        assert_eq!(reply.word().await.unwrap(), None);
        self.connection = Some(reply.into_connection());
        longest
    }

    async fn whole_answer(&mut self, prompt: &str) -> Duration {
        let request = self.live.chat(prompt, false);
        let asked = Instant::now();
        let mut reply = self.live.send_on(&mut self.connection, request).await;
        let answer = reply.json().await;
        let took = asked.elapsed();
        assert_eq!(answer["choices"][0]["message"]["content"], "word ", "{answer}");
        self.connection = Some(reply.into_connection());
        took
    }
}

/// A model server that says a word of a stream whenever it may.
async fn model_server(words: Arc<Semaphore>) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            // A node that leaves ends the connection in the middle of whatever it was.
            tokio::spawn(serve(BufReader::new(stream), Arc::clone(&words)));
        }
    });
    (address, AbortOnDropHandle::new(server))
}

async fn serve(mut io: BufReader<TcpStream>, words: Arc<Semaphore>) -> std::io::Result<()> {
    loop {
        let (line, body) = read_request(&mut io).await?;
        if line.starts_with("GET") {
            let models = json!({"object": "list", "data": [{"id": MODEL, "object": "model"}]});
            write_whole(&mut io, &models.to_string()).await?;
        } else if body.windows(13).any(|part| part == b"\"stream\":true") {
            write_stream(&mut io, &words).await?;
        } else {
            let answer = json!({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL,
                "choices": [{
                    "index": 0, "message": {"role": "assistant", "content": "word "},
                    "finish_reason": "stop",
                }],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            });
            write_whole(&mut io, &answer.to_string()).await?;
        }
    }
}

/// Reads a request; returns its first line and its body.
async fn read_request(io: &mut BufReader<TcpStream>) -> std::io::Result<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if io.read_line(&mut head).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    io.read_exact(&mut body).await?;
    Ok((head.lines().next().unwrap_or_default().to_ascii_uppercase(), body))
}

async fn write_whole(io: &mut BufReader<TcpStream>, json: &str) -> std::io::Result<()> {
    let length = json.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    io.write_all((head + json).as_bytes()).await
}

async fn write_stream(io: &mut BufReader<TcpStream>, words: &Semaphore) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                transfer-encoding: chunked\r\n\r\n";
    io.write_all(head.as_bytes()).await?;
    for number in 1..=WORDS {
        words.acquire().await.unwrap().forget();
        let end = if number == WORDS { json!("stop") } else { json!(null) };
        let event = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL,
            "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": end}],
        });
        write_event(io, &event.to_string()).await?;
    }
    write_event(io, "[DONE]").await?;
    io.write_all(b"0\r\n\r\n").await
}

async fn write_event(io: &mut BufReader<TcpStream>, data: &str) -> std::io::Result<()> {
    let event = format!("data: {data}\n\n");
    io.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await
}
