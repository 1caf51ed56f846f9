//! A model server that repeats what it is asked, word by word; one that is told to also fails at
//! random, in the ways that servers do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::live::MODEL;
use crate::live::dice::Dice;

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

/// One answer in so many fails, where answers fail.
const FAILS: usize = 8;
/// How long an answer stands still that does.
const STILL: Duration = Duration::from_secs(2);

/// How an answer fails.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It is refused, by a page of a proxy.
    Refused,
    /// The connection breaks.
    Cut,
    /// Nothing comes for a while, and then the rest.
    Still,
    /// The same, and then the connection breaks.
    StillAndCut,
    /// An event is no JSON.
    Nonsense,
    /// An event is of another shape.
    OtherShape,
    /// The transfer itself is not one.
    BrokenTransfer,
    /// The stream ends as if all were said, which it is not.
    EndsEarly,
}

impl Fault {
    const ALL: [Self; 8] = [
        Self::Refused,
        Self::Cut,
        Self::Still,
        Self::StillAndCut,
        Self::Nonsense,
        Self::OtherShape,
        Self::BrokenTransfer,
        Self::EndsEarly,
    ];
}

/// Draws whether an answer fails, how, and after how many words.
#[derive(Clone, Debug)]
struct Faults(Option<Arc<Mutex<Dice>>>);

impl Faults {
    fn draw(&self) -> Option<(Fault, usize)> {
        let mut dice = self.0.as_ref()?.lock().unwrap();
        let fails = dice.below(FAILS) == 0;
        fails.then(|| (Fault::ALL[dice.below(Fault::ALL.len())], dice.below(WORDS)))
    }
}

/// Words within which an answer fails.
const WORDS: usize = 12;

/// Serves for ever, and says where. Answers fail by what is drawn from a seed, if there is one.
pub(crate) async fn serve(listen: SocketAddr, seed: Option<u64>) {
    let faults = Faults(seed.map(|seed| Arc::new(Mutex::new(Dice::of(seed)))));
    let listener = TcpListener::bind(listen).await.unwrap();
    println!("address {}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let faults = faults.clone();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            // Whoever leaves ends the work on its answer.
            while answer_one(&mut stream, &faults).await.is_some() {}
        });
    }
}

async fn answer_one(stream: &mut BufReader<TcpStream>, faults: &Faults) -> Option<()> {
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
        "/v1/chat/completions" => {
            chat(stream, &serde_json::from_slice(&body).unwrap(), faults.draw()).await
        }
        _ => whole(stream, 404, &json!({"detail": "Not Found"})).await,
    }
}

async fn chat(
    stream: &mut BufReader<TcpStream>,
    asked: &Value,
    fault: Option<(Fault, usize)>,
) -> Option<()> {
    let _running = Running::begin();
    if let Some((Fault::Refused, _)) = fault {
        return whole(stream, 502, &json!("<html>Bad Gateway</html>")).await;
    }
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
        return match fault {
            Some((fault, _)) => fail_whole(stream, fault, &answer).await,
            None => whole(stream, 200, &answer).await,
        };
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
        transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    for (number, word) in words.enumerate() {
        tokio::time::sleep(PACE).await;
        if let Some((fault, at)) = fault
            && at == number
        {
            fail(stream, fault).await?;
        }
        event(stream, &delta(&json!({"content": word}), &Value::Null).to_string()).await?;
    }
    event(stream, &delta(&json!({}), &json!("stop")).to_string()).await?;
    event(stream, "[DONE]").await?;
    stream.write_all(b"0\r\n\r\n").await.ok()
}

/// Fails in the middle of a stream; returns whether it goes on.
async fn fail(stream: &mut BufReader<TcpStream>, fault: Fault) -> Option<()> {
    match fault {
        Fault::Refused | Fault::Cut => return None,
        Fault::Still => return stand_still(stream).await,
        Fault::StillAndCut => {
            stand_still(stream).await?;
            return None;
        }
        Fault::Nonsense => event(stream, "{\"choices\":[{\"delta\":{\"content\":\"").await?,
        Fault::OtherShape => event(stream, "{\"choices\":{\"delta\":[7]}}").await?,
        Fault::BrokenTransfer => stream.write_all(b"not a length\r\n\xff\xfe\r\n").await.ok()?,
        Fault::EndsEarly => stream.write_all(b"0\r\n\r\n").await.ok()?,
    }
    // Whatever comes next belongs to nothing.
    None
}

/// Waits for a while, unless whoever asked leaves.
async fn stand_still(stream: &mut BufReader<TcpStream>) -> Option<()> {
    tokio::select! {
        () = tokio::time::sleep(STILL) => Some(()),
        _ = stream.read_u8() => None,
    }
}

/// Fails where the answer is one piece.
async fn fail_whole(stream: &mut BufReader<TcpStream>, fault: Fault, answer: &Value) -> Option<()> {
    match fault {
        Fault::Still => {
            stand_still(stream).await?;
            whole(stream, 200, answer).await
        }
        Fault::Nonsense => whole(stream, 200, &json!("nonsense")).await,
        Fault::OtherShape => whole(stream, 200, &json!({"choices": {"message": 7}})).await,
        _ => {
            let text = answer.to_string();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
            let half = &text[..text.len() / 2];
            stream.write_all((head + half).as_bytes()).await.ok()?;
            None
        }
    }
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
