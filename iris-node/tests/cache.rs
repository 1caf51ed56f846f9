//! Downloads into the cache, from a server that answers as each test wants it to.
#![cfg(feature = "cache")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iris_core::memory::ByteSize;
use iris_node::cache::{CacheError, Digest, Event, ModelCache, Pull, PullError, Pulled, Source};
use iris_protocol::rest::{FileName, Secret};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;

/// More time than any of these downloads needs.
const AMPLE: Duration = Duration::from_mins(1);
const SIZE: usize = 3 << 20;

/// A file that looks like a model's.
fn model() -> Vec<u8> {
    let noise = (0_u32..).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]);
    b"GGUF".iter().copied().chain(noise).take(SIZE).collect()
}

fn blake3(bytes: &[u8]) -> Digest {
    Digest::Blake3(*blake3::hash(bytes).as_bytes())
}

/// The head of a request.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    head: String,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns from where on the file is wanted.
    fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
    }
}

/// What a server writes before it closes the connection.
struct Reply {
    bytes: Vec<u8>,
    /// Whether it says nothing more, and holds the connection.
    holds: bool,
}

impl Reply {
    fn new(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let head = format!(
            "HTTP/1.1 {status} X\r\n{}connection: close\r\n\r\n",
            lines.collect::<String>()
        );
        Self { bytes: [head.as_bytes(), body].concat(), holds: false }
    }

    /// Gives what is asked for of a file that is known by its tag.
    fn file(asked: &Asked, file: &[u8], tag: &str) -> Self {
        let from = asked.from();
        let (all, tag) = (file.len(), format!("\"{tag}\""));
        if from == 0 || asked.header("if-range") != Some(&tag) {
            let length = all.to_string();
            return Self::new("200", &[("content-length", &length), ("etag", &tag)], file);
        }
        let range = format!("bytes {from}-{}/{all}", all - 1);
        let length = (all - from).to_string();
        let headers = [("content-length", &*length), ("content-range", &range), ("etag", &tag)];
        Self::new("206", &headers, &file[from..])
    }

    /// Breaks off before the last `count` bytes.
    fn without(mut self, count: usize) -> Self {
        self.bytes.truncate(self.bytes.len() - count);
        self
    }

    fn holding(self) -> Self {
        Self { holds: true, ..self }
    }
}

struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Answers each request by what it is and how many came before it.
    async fn start(answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&asked);
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    while !bytes.ends_with(b"\r\n\r\n") {
                        bytes.push(stream.read_u8().await.unwrap());
                    }
                    let head = String::from_utf8(bytes).unwrap();
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    let asked = Asked { path, head };
                    let number = {
                        let mut all = all.lock().unwrap();
                        all.push(asked.clone());
                        all.len() - 1
                    };
                    let reply = answer(&asked, number);
                    // Whoever has heard enough hangs up.
                    let _ = stream.write_all(&reply.bytes).await;
                    if reply.holds {
                        let _ = stream.read_u8().await;
                    }
                });
            }
        });
        Self { url, asked }
    }

    fn source(&self) -> Source {
        Source::new(&format!("{}/models/x.gguf?sig=hunter2", self.url)).unwrap()
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

struct Folder {
    _folder: TempDir,
    cache: ModelCache,
}

impl Folder {
    fn new() -> Self {
        Self::with_limit(100 << 20)
    }

    fn with_limit(limit: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(folder.path().join("models"), ByteSize::new(limit));
        Self { _folder: folder, cache }
    }

    fn pull(&self, source: Source) -> Pull {
        self.pull_as("x.gguf", source)
    }

    fn pull_as(&self, name: &str, source: Source) -> Pull {
        let pull = Pull::new(self.cache.clone(), name.parse().unwrap(), source);
        pull.with_pause(Duration::from_millis(1))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cache.folder().join(name)
    }

    fn models(&self) -> Vec<String> {
        self.cache.models().unwrap().into_iter().map(|model| model.name.to_string()).collect()
    }

    /// Returns whether nothing is left of a download.
    fn is_clean(&self) -> bool {
        let files = std::fs::read_dir(self.cache.folder()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        !names.into_iter().any(|name| name.contains(".part") || name.contains(".new"))
    }
}

type Then = Box<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// Downloads, and returns what came of it and what happened.
async fn run(pull: Pull) -> (Result<Pulled, PullError>, Vec<Event>) {
    let mut events = Vec::new();
    let pulled = timeout(AMPLE, pull.run(|event| events.push(event))).await.unwrap();
    (pulled, events)
}

fn restarts(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Restarted(_))).count()
}

/// Returns where each answer began.
fn begun(events: &[Event]) -> Vec<u64> {
    let begun = events.iter().filter_map(|event| match event {
        Event::Begun { from, .. } => Some(*from),
        _ => None,
    });
    begun.collect()
}

fn received(events: &[Event]) -> u64 {
    let received = events.iter().rev().find_map(|event| match event {
        Event::Come { received, .. } => Some(*received),
        _ => None,
    });
    received.unwrap_or(0)
}

#[tokio::test]
async fn a_model_is_downloaded_once_and_is_what_the_source_has() {
    let file = model();
    let server = Server::start(|asked, _| Reply::file(asked, &model(), "a")).await;
    let folder = Folder::new();
    let (pulled, events) = run(folder.pull(server.source())).await;
    let Ok(Pulled::New(record)) = pulled else { panic!("{pulled:?}") };
    assert_eq!((record.size, record.digest), (SIZE as u64, blake3(&file)));
    assert!(record.source.ends_with("/models/x.gguf"), "no secret is kept: {}", record.source);
    assert_eq!(std::fs::read(folder.path("x.gguf")).unwrap(), file);
    assert_eq!((begun(&events), received(&events)), (vec![0], SIZE as u64));
    assert!(folder.is_clean());
    let (again, _) = run(folder.pull(server.source())).await;
    assert_eq!(again.unwrap(), Pulled::Known(record));
    assert_eq!(server.asked().len(), 1);
    let other = Source::new(&format!("{}/other/x.gguf", server.url)).unwrap();
    assert!(matches!(run(folder.pull(other.clone())).await.0, Err(PullError::Exists { .. })));
    let same = run(folder.pull(other.with_digest(blake3(&file)))).await.0;
    assert!(matches!(same, Ok(Pulled::Known(_))), "a mirror of what is wanted: {same:?}");
    let other = server.source().with_digest(Digest::Blake3([1; 32]));
    assert!(matches!(run(folder.pull(other)).await.0, Err(PullError::Exists { .. })));
    // SHA-256 is not kept, and is found out.
    let other = server.source().with_digest(Digest::Sha256([1; 32]));
    let (known, _) = run(folder.pull(other)).await;
    assert!(matches!(known, Err(PullError::Exists { found: Digest::Sha256(_), .. })));
}

#[tokio::test]
async fn what_breaks_off_goes_on_where_it_was() {
    let server = Server::start(|asked, number| {
        let reply = Reply::file(asked, &model(), "a");
        if number < 2 { reply.without(SIZE / 4) } else { reply }
    })
    .await;
    let folder = Folder::new();
    let (pulled, events) = run(folder.pull(server.source())).await;
    assert!(matches!(pulled, Ok(Pulled::New(record)) if record.digest == blake3(&model())));
    let asked = server.asked();
    assert_eq!(asked.iter().map(Asked::from).collect::<Vec<_>>(), [0, SIZE / 4 * 3, SIZE / 4 * 3]);
    assert_eq!(asked[1].header("if-range"), Some("\"a\""));
    assert_eq!((received(&events), restarts(&events)), (SIZE as u64, 0), "no byte came twice");
}

#[tokio::test]
async fn a_download_that_is_killed_goes_on_and_a_part_that_went_bad_is_thrown_away_once() {
    for spoilt in [false, true] {
        let server = Server::start(|asked, number| {
            let reply = Reply::file(asked, &model(), "a");
            if number == 0 { reply.without(SIZE / 2).holding() } else { reply }
        })
        .await;
        let folder = Folder::new();
        let half = Arc::new(Notify::new());
        let heard = Arc::clone(&half);
        let pull = folder.pull(server.source()).run(move |event| {
            if matches!(event, Event::Come { len, .. } if len == SIZE as u64 / 2) {
                heard.notify_one();
            }
        });
        tokio::select! {
            ended = pull => panic!("{ended:?}"),
            () = half.notified() => {}
        }
        // What was given up is written down and let go before it can be gone on with.
        let part = std::fs::File::open(folder.path("x.gguf.part")).unwrap();
        tokio::task::spawn_blocking(move || part.lock()).await.unwrap().unwrap();
        if spoilt {
            let mut bytes = model();
            bytes.truncate(SIZE / 2);
            bytes[7] ^= 1;
            std::fs::write(folder.path("x.gguf.part"), bytes).unwrap();
        }
        let (pulled, events) = run(folder.pull(server.source())).await;
        assert!(matches!(pulled, Ok(Pulled::New(record)) if record.digest == blake3(&model())));
        let from = if spoilt { 0 } else { SIZE / 2 };
        assert_eq!((begun(&events), restarts(&events)), (vec![from as u64], spoilt.into()));
        assert!(folder.is_clean());
    }
}

#[tokio::test]
async fn servers_without_ranges_and_with_other_files_are_begun_anew() {
    let other = || {
        let mut file = model();
        file[SIZE - 1] ^= 1;
        file.push(0);
        file
    };
    let whole = |_: &Asked| {
        let length = SIZE.to_string();
        Reply::new("200", &[("content-length", &length), ("etag", "\"a\"")], &model())
    };
    let changed = move |asked: &Asked| Reply::file(asked, &other(), "b");
    // It pays no heed to the tag.
    let joined = move |asked: &Asked| {
        let (from, file) = (asked.from(), other());
        let range = format!("bytes {from}-{}/{}", file.len() - 1, file.len());
        let length = (file.len() - from).to_string();
        let part = [("content-length", &*length), ("content-range", &range)];
        let headers = if from > 0 { &part[..] } else { &part[..1] };
        Reply::new(if from > 0 { "206" } else { "200" }, headers, &file[from..])
    };
    let refusing = move |asked: &Asked| match asked.from() {
        0 => Reply::file(asked, &other(), "b"),
        _ => Reply::new("416", &[("content-range", "bytes */7"), ("content-length", "0")], b""),
    };
    let cases: [(Then, Vec<u8>); 4] = [
        (Box::new(whole), model()),
        (Box::new(changed), other()),
        (Box::new(joined), other()),
        (Box::new(refusing), other()),
    ];
    for (case, (then, expected)) in cases.into_iter().enumerate() {
        let server = Server::start(move |asked, number| match number {
            0 => Reply::file(asked, &model(), "a").without(SIZE / 2),
            _ => then(asked),
        })
        .await;
        let folder = Folder::new();
        let (pulled, events) = run(folder.pull(server.source())).await;
        assert!(
            matches!(&pulled, Ok(Pulled::New(record)) if record.digest == blake3(&expected)),
            "{case}: {pulled:?}"
        );
        assert_eq!(restarts(&events), 1, "{case}: {events:?}");
    }
}

#[tokio::test]
async fn a_rest_of_something_else_is_thrown_away_once_and_then_refused() {
    let digest = blake3(&model());
    for heals in [true, false] {
        let server = Server::start(move |asked, number| {
            let mut file = model();
            if number == 1 || !heals {
                file[SIZE - 1] ^= 1;
            }
            let reply = Reply::file(asked, &file, "a");
            if number == 0 { reply.without(SIZE / 2) } else { reply }
        })
        .await;
        let folder = Folder::new();
        let (pulled, events) = run(folder.pull(server.source().with_digest(digest))).await;
        assert_eq!((restarts(&events), begun(&events)), (1, vec![0, SIZE as u64 / 2, 0]));
        if heals {
            assert!(matches!(pulled, Ok(Pulled::New(record)) if record.digest == digest));
        } else {
            assert!(
                matches!(pulled, Err(PullError::Digest { expected, .. }) if expected == digest)
            );
            assert_eq!(folder.models(), Vec::<String>::new());
            assert_eq!(std::fs::metadata(folder.path("x.gguf.part")).unwrap().len(), 0);
        }
    }
}

#[tokio::test]
async fn sources_that_lie_about_length_are_not_believed() {
    // Each answer is shorter than it says.
    let short = Server::start(|asked, _| Reply::file(asked, &model()[..SIZE / 2], "a").without(9));
    let short = short.await;
    let folder = Folder::new();
    let lying = Source::new(&format!("{}/x.gguf", short.url)).unwrap().with_size(SIZE as u64);
    assert!(matches!(run(folder.pull(lying)).await.0, Err(PullError::Length { .. })));
    let never = Server::start(|asked, _| Reply::file(asked, &model(), "a").without(SIZE / 2));
    let (pulled, events) = run(folder.pull(never.await.source())).await;
    assert!(matches!(pulled, Err(PullError::Broken(_))), "{pulled:?}");
    let waits = events.iter().filter(|event| matches!(event, Event::Waiting { .. })).count();
    assert_eq!(waits, 5, "it does not try for ever");
    // More comes than was said.
    let long = Server::start(|asked, number| {
        if number == 0 {
            return Reply::file(asked, &model(), "a").without(SIZE / 2);
        }
        let range = format!("bytes {}-{}/{SIZE}", asked.from(), SIZE - 1);
        let body = format!("{:x}\r\n{}\r\n0\r\n\r\n", SIZE, "x".repeat(SIZE));
        let headers = [("transfer-encoding", "chunked"), ("content-range", &range)];
        Reply::new("206", &headers, body.as_bytes())
    });
    let folder = Folder::new();
    let (pulled, _) = run(folder.pull(long.await.source())).await;
    assert!(matches!(pulled, Err(PullError::Length { .. })), "{pulled:?}");
    let unsaid = Server::start(|_, _| Reply::new("200", &[], &model())).await;
    let (pulled, _) = run(folder.pull_as("y.gguf", unsaid.source())).await;
    assert!(matches!(pulled, Err(PullError::NoLength)), "{pulled:?}");
}

#[tokio::test]
async fn what_is_not_what_was_pinned_or_stated_is_thrown_away() {
    let folder = Folder::new();
    let server = Server::start(|asked, _| Reply::file(asked, &model(), "a")).await;
    let expected = Digest::Sha256([7; 32]);
    let (pulled, _) = run(folder.pull(server.source().with_digest(expected))).await;
    assert!(matches!(pulled, Err(PullError::Digest { expected: e, .. }) if e == expected));
    let stating = Server::start(|_, _| {
        let length = SIZE.to_string();
        let stated = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
        Reply::new("200", &[("content-length", &length), ("repr-digest", stated)], &model())
    });
    let stating = stating.await;
    let (pulled, _) = run(folder.pull(stating.source())).await;
    assert!(matches!(pulled, Err(PullError::Digest { .. })), "{pulled:?}");
    let (pulled, events) = run(folder.pull(stating.source().with_digest(expected))).await;
    assert!(matches!(pulled, Err(PullError::OtherDigest { .. })), "{pulled:?}");
    assert_eq!(received(&events), 0, "it is known before anything comes");
    let page = Server::start(|_, _| Reply::new("200", &[("content-length", "6")], b"<html>"));
    let (pulled, _) = run(folder.pull(page.await.source())).await;
    assert!(matches!(pulled, Err(PullError::NotGguf)), "{pulled:?}");
    assert_eq!(folder.models(), Vec::<String>::new());
}

#[tokio::test]
async fn other_hosts_are_not_followed_to_and_see_no_key() {
    let elsewhere = Server::start(|asked, _| Reply::file(asked, &model(), "a")).await;
    let to = format!("{}/stolen", elsewhere.url);
    let server = Server::start(move |asked, _| match &*asked.path {
        "/near" => Reply::new("302", &[("location", "/far/x.gguf"), ("content-length", "0")], b""),
        "/far/x.gguf" => Reply::file(asked, &model(), "a"),
        "/round" => Reply::new("302", &[("location", "/round"), ("content-length", "0")], b""),
        _ => Reply::new("302", &[("location", &to), ("content-length", "0")], b""),
    })
    .await;
    let folder = Folder::new();
    let source = |path: &str| {
        let source = Source::new(&format!("{}{path}", server.url)).unwrap();
        source.with_key(Secret::new("hunter2"))
    };
    let away = source("/away").with_digest(blake3(&model()));
    assert!(matches!(run(folder.pull(away)).await.0, Err(PullError::Redirect(_))), "not https");
    assert!(elsewhere.asked().is_empty());
    assert!(matches!(run(folder.pull(source("/round"))).await.0, Err(PullError::Redirects)));
    assert!(matches!(run(folder.pull(source("/near"))).await.0, Ok(Pulled::New(_))));
    let keys = server.asked().iter().all(|a| a.header("authorization") == Some("Bearer hunter2"));
    assert!(keys);
}

#[tokio::test]
async fn refusals_and_silence_are_told() {
    let folder = Folder::new();
    for status in ["401", "404"] {
        let server = Server::start(move |_, _| Reply::new(status, &[("content-length", "0")], b""));
        let (pulled, _) = run(folder.pull(server.await.source())).await;
        assert!(matches!(pulled, Err(PullError::Status(found)) if found.to_string() == status));
    }
    let server = Server::start(|asked, number| match number {
        0 => {
            // Of the page, if that had one.
            let stated = format!("blake3=:{}=:", "A".repeat(43));
            let headers = [("content-length", "0"), ("repr-digest", &*stated)];
            Reply::new("503", &headers, b"")
        }
        1 => Reply::file(asked, &model(), "a").without(SIZE / 2).holding(),
        _ => Reply::file(asked, &model(), "a"),
    });
    let source = server.await.source().with_digest(blake3(&model()));
    let pull = folder.pull(source).with_patience(Duration::from_secs(2));
    let (pulled, events) = run(pull).await;
    assert!(matches!(pulled, Ok(Pulled::New(record)) if record.digest == blake3(&model())));
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Waiting { why, .. } if why.contains("silent")))
    );
}

#[tokio::test]
async fn a_source_that_says_when_it_is_ready_is_waited_for() {
    let folder = Folder::new();
    // More often than failures are borne with.
    let server = Server::start(|asked, number| match number {
        0..10 => Reply::new("503", &[("content-length", "0"), ("retry-after", "0")], b""),
        _ => Reply::file(asked, &model(), "a"),
    });
    let (pulled, events) = run(folder.pull(server.await.source())).await;
    assert!(matches!(pulled, Ok(Pulled::New(record)) if record.digest == blake3(&model())));
    assert!(!events.iter().any(|event| matches!(event, Event::Waiting { .. })), "{events:?}");
    let server = Server::start(|_, _| {
        Reply::new("503", &[("content-length", "0"), ("retry-after", "3600")], b"")
    });
    let pull = folder.pull_as("y.gguf", server.await.source());
    let (pulled, _) = run(pull).await;
    assert!(matches!(pulled, Err(PullError::Broken(_))), "{pulled:?}");
}

#[tokio::test]
async fn no_more_is_received_than_may_be_and_the_rest_comes_another_time() {
    let server = Server::start(|asked, _| Reply::file(asked, &model(), "a")).await;
    let folder = Folder::new();
    let pull = folder.pull(server.source()).with_allowance(1 << 20);
    let (pulled, events) = run(pull).await;
    assert!(matches!(pulled, Err(PullError::Allowance)), "{pulled:?}");
    let first = received(&events);
    assert!((1 << 20..2 << 20).contains(&first), "{first}");
    let (none, events) = run(folder.pull(server.source()).with_allowance(0)).await;
    assert!(matches!(none, Err(PullError::Allowance)) && received(&events) == 0);
    let (pulled, events) = run(folder.pull(server.source())).await;
    assert!(matches!(pulled, Ok(Pulled::New(_))));
    assert_eq!((begun(&events), received(&events)), (vec![first], SIZE as u64 - first));
}

#[tokio::test]
async fn the_longest_unused_makes_room_and_what_is_in_use_does_not() {
    let server = Server::start(|asked, _| Reply::file(asked, &model(), "a")).await;
    let folder = Folder::with_limit(2 * SIZE as u64);
    for name in ["a.gguf", "b.gguf"] {
        assert!(run(folder.pull_as(name, server.source())).await.0.is_ok());
    }
    let name: FileName = "a.gguf".parse().unwrap();
    let held = folder.cache.hold(&name).unwrap();
    let (pulled, events) = run(folder.pull_as("c.gguf", server.source())).await;
    assert!(pulled.is_ok());
    assert!(events.contains(&Event::Removed("b.gguf".parse().unwrap())));
    assert_eq!(folder.models(), ["a.gguf", "c.gguf"]);
    let other = folder.cache.hold(&"c.gguf".parse().unwrap()).unwrap();
    let (pulled, events) = run(folder.pull_as("d.gguf", server.source())).await;
    assert!(matches!(pulled, Err(PullError::NoRoom { over, .. }) if over.get() == SIZE as u64));
    assert_eq!(received(&events), 0);
    drop((held, other));
    assert_eq!(folder.models(), ["a.gguf", "c.gguf"]);
}

#[tokio::test]
async fn two_do_not_download_the_same_and_the_owners_files_stay() {
    let server =
        Server::start(|asked, _| Reply::file(asked, &model(), "a").without(SIZE / 2).holding())
            .await;
    let folder = Folder::new();
    let busy = Arc::new(Notify::new());
    let heard = Arc::clone(&busy);
    let first = folder.pull(server.source()).run(move |event| {
        if matches!(event, Event::Come { .. }) {
            heard.notify_one();
        }
    });
    tokio::select! {
        ended = first => panic!("{ended:?}"),
        second = async {
            busy.notified().await;
            run(folder.pull(server.source())).await.0
        } => assert!(matches!(second, Err(PullError::Busy(_))), "{second:?}"),
    }
    std::fs::write(folder.path("own.gguf"), b"mine").unwrap();
    let (pulled, _) = run(folder.pull_as("own.gguf", server.source())).await;
    assert!(matches!(pulled, Err(PullError::Cache(CacheError::Owned(_)))), "{pulled:?}");
    assert_eq!(std::fs::read(folder.path("own.gguf")).unwrap(), b"mine");
}

/// Linux has a file that is always full.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_told_as_that() {
    let server = Server::start(|asked, _| Reply::file(asked, &model(), "a")).await;
    let folder = Folder::new();
    std::fs::create_dir_all(folder.cache.folder()).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path("x.gguf.part")).unwrap();
    let (pulled, _) = run(folder.pull(server.source())).await;
    assert!(matches!(pulled, Err(PullError::DiskFull { over: None })), "{pulled:?}");
    assert_eq!(folder.models(), Vec::<String>::new());
    // More than the disk has is not begun with.
    let folder = Folder::with_limit(u64::MAX);
    let endless = Server::start(|_, _| {
        Reply::new("200", &[("content-length", "9000000000000000000")], b"GGUF")
    });
    let (pulled, events) = run(folder.pull(endless.await.source())).await;
    assert!(matches!(pulled, Err(PullError::DiskFull { over: Some(_) })), "{pulled:?}");
    assert_eq!(received(&events), 0);
}
