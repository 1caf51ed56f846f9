//! A model server that repeats what it is asked, word by word.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::live::MODEL;

/// What a word takes.
const PACE: Duration = Duration::from_millis(3);

/// Answers that are being made.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

struct Running;

impl Running {
    fn begin() -> Self {
        RUNNING.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves for ever, and says where.
pub(crate) async fn serve(listen: SocketAddr) {
    let listener = TcpListener::bind(listen).await.unwrap();
    println!("address {}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            // Whoever leaves ends the work on its answer.
            while answer_one(&mut stream).await.is_some() {}
        });
    }
}

async fn answer_one(stream: &mut BufReader<TcpStream>) -> Option<()> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().filter_map(|line| line.split_once(':'));
    let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.next_back().map_or(0, |(_, value)| value.trim().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    match head.split(' ').nth(1)? {
        "/v1/models" => {
            whole(stream, 200, &json!({"object": "list", "data": [{"id": MODEL}]})).await
        }
        "/running" => whole(stream, 200, &json!(RUNNING.load(Ordering::Relaxed))).await,
        "/v1/chat/completions" => chat(stream, &serde_json::from_slice(&body).unwrap()).await,
        _ => whole(stream, 404, &json!({"detail": "Not Found"})).await,
    }
}

async fn chat(stream: &mut BufReader<TcpStream>, asked: &Value) -> Option<()> {
    let _running = Running::begin();
    let prompt = asked["messages"][0]["content"].as_str().unwrap();
    let words = prompt.split_inclusive(' ');
    if asked["stream"] != true {
        let mut gone = [0];
        // A caller that leaves is noticed while the answer is made.
        tokio::select! {
            () = tokio::time::sleep(PACE * u32::try_from(words.count()).unwrap()) => {}
            _ = stream.read(&mut gone) => return None,
        }
        let message = json!({"role": "assistant", "content": prompt});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        let usage = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
        let answer = json!({"id": "c", "object": "chat.completion", "created": 1, "model": MODEL,
            "choices": [choice], "usage": usage});
        return whole(stream, 200, &answer).await;
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
        transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    for word in words {
        tokio::time::sleep(PACE).await;
        event(stream, &delta(&json!({"content": word}), &Value::Null).to_string()).await?;
    }
    event(stream, &delta(&json!({}), &json!("stop")).to_string()).await?;
    event(stream, "[DONE]").await?;
    stream.write_all(b"0\r\n\r\n").await.ok()
}

fn delta(delta: &Value, finish_reason: &Value) -> Value {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish_reason});
    json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL,
        "choices": [choice]})
}

async fn event(stream: &mut BufReader<TcpStream>, data: &str) -> Option<()> {
    let event = format!("data: {data}\n\n");
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    stream.write_all(chunk.as_bytes()).await.ok()
}

async fn whole(stream: &mut BufReader<TcpStream>, status: u16, body: &Value) -> Option<()> {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes()).await.ok()
}
