//! No space left for the books.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use iris_coordinator::store::SqliteStore;
use serde_json::{Value, json};

use crate::live::caller::{self, Request};
use crate::live::{MODEL, chat, settlements};
use crate::load::question;
use crate::network::{Network, Part};
use crate::{HEALED, books, process, skip};

/// Bytes of the file system that is filled.
const SMALL: &str = "4m";
/// How large a file may get where files may not grow.
const LARGEST: u64 = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_stops_promises_and_loses_nothing() {
    const TEST: &str = "a full disk";
    let able =
        Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    if !able.is_ok_and(|output| output.status.success()) {
        return skip(TEST, "This user may not mount file systems.");
    }
    let mut network = Network::with_small_disk(SMALL).await;
    join(&mut network).await;
    let pid = network.coordinator.as_ref().unwrap().pid();
    let seen = |path: &Path| PathBuf::from(format!("/proc/{pid}/root{}", path.display()));
    let filler = seen(&network.database().with_extension("filler"));
    let fill = || {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&filler).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    };
    let free = || std::fs::remove_file(&filler).unwrap();
    story(&network, fill, free).await;
    check(&network, &seen(network.database())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_grow_stop_promises_and_lose_nothing() {
    let mut network = Network::with_coordinator("trap '' XFSZ; ulimit -c 0;").await;
    let pid = network.coordinator.as_ref().unwrap().pid();
    if !process::limit(pid, "--fsize=unlimited") {
        return skip("files that cannot grow", "There is no prlimit here (util-linux).");
    }
    join(&mut network).await;
    let fill = || assert!(process::limit(pid, &format!("--fsize={LARGEST}:unlimited")));
    let free = || assert!(process::limit(pid, "--fsize=unlimited"));
    story(&network, fill, free).await;
    check(&network, network.database()).await;
}

async fn join(network: &mut Network) {
    network.start(Part::ModelServer).await;
    network.nodes.push(None);
    network.start(Part::Node(0)).await;
    network.serves().await;
}

/// Lets the disk run full and have room again, and checks what callers hear meanwhile.
async fn story(network: &Network, fill: impl Fn(), free: impl Fn()) {
    let mut accepted = BTreeMap::new();
    let before = submit(network, 0).await.expect("there is space");
    accepted.insert(0, before);
    fill();
    // The log may have room for some more rows.
    let begun = Instant::now();
    let mut number = 1;
    let refusal = loop {
        assert!(begun.elapsed() < HEALED, "{number} tasks were accepted on a full disk");
        match submit(network, number).await {
            Ok(id) => drop(accepted.insert(number, id)),
            Err(refusal) => break refusal,
        }
        number += 1;
    };
    assert_eq!(refusal["error"]["code"], "unavailable", "{refusal}");
    assert_eq!(ready(network).await, 503);
    // A chat is a promise to its caller alone: it is answered, and its settlement waits.
    for number in 0..5 {
        assert_eq!(ask(network, number).await, question(number));
    }
    // What cannot be promised is refused at once, not after a wait.
    let begun = Instant::now();
    submit(network, number).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    println!("{} durable tasks fitted, then: {}", accepted.len(), refusal["error"]["message"]);
    free();
    let begun = Instant::now();
    while ready(network).await != 200 {
        assert!(begun.elapsed() < HEALED, "not ready within {HEALED:?} of having space");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("ready {:.0?} after there was space", begun.elapsed());
    accepted.insert(number, submit(network, number).await.expect("there is space"));
    let finished = books::ended(network, &accepted).await;
    assert_eq!(finished, accepted.len());
    network.is_idle().await;
}

/// Checks that whatever has ended is settled.
async fn check(network: &Network, database: &Path) {
    let mut ended = 0;
    for outcome in ["finished", "failed", "cancelled", "expired"] {
        ended += network.figure(&format!("iris_tasks_total{{outcome=\"{outcome}\"}}")).await;
    }
    let begun = Instant::now();
    loop {
        let rows = rows(database).await;
        if rows >= ended {
            assert_eq!(rows, ended);
            return;
        }
        assert!(begun.elapsed() < HEALED, "{rows} settlements for {ended} tasks");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Counts the settlements in a copy, since SQLite finds no file in another's surroundings.
async fn rows(database: &Path) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("iris.db");
    for end in ["db", "db-wal"] {
        std::fs::copy(database.with_extension(end), copy.with_extension(end)).unwrap();
    }
    settlements(&SqliteStore::open(copy, &[]).unwrap()).await.len() as u64
}

async fn ready(network: &Network) -> u16 {
    caller::send(network.address, &Request::get("/readyz")).await.unwrap().status
}

async fn ask(network: &Network, number: usize) -> String {
    let body = chat(&question(number), false);
    let request = Request::post("/v1/chat/completions", body).bearer(&network.key);
    let mut reply = caller::send(network.address, &request).await.unwrap();
    let answer = reply.json().await;
    assert_eq!(reply.status, 200, "{answer}");
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

/// Submits a durable task; resolves to its id, or to why it was not accepted.
async fn submit(network: &Network, number: usize) -> Result<String, Value> {
    let body = json!({"model": MODEL, "prompt": question(number)});
    let request = Request::post("/inference", body).bearer(&network.key);
    let mut reply = caller::send(network.address, &request).await.unwrap();
    let status = reply.json().await;
    match reply.status {
        202 => Ok(status["id"].as_str().unwrap().to_owned()),
        503 => Err(status),
        other => panic!("{other}: {status}"),
    }
}
