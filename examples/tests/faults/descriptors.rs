//! No files left to open.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::live::SOON;
use crate::live::caller::{self, Request};
use crate::live::chat;
use crate::network::{Network, Part};
use crate::{HEALED, QUIET, process, skip};

/// How long the processor is watched.
const WATCHED: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_stop_short_of_the_limit_of_open_files() {
    if !process::is_known() {
        return skip("limits of open files", "There is no /proc here.");
    }
    let _quiet = QUIET.lock().await;
    let mut network = Network::with_coordinator("ulimit -n 64;").await;
    join(&mut network).await;
    let mut kept = Some(connection(&network).await);
    // Far more than there is room for; those beyond it are told so.
    let (mut idle, mut refused) = (Vec::new(), 0);
    for _ in 0..100 {
        let mut stream = TcpStream::connect(network.address).await.unwrap();
        let mut answer = [0; 12];
        match timeout(Duration::from_millis(100), stream.read_exact(&mut answer)).await {
            Ok(read) => {
                read.unwrap();
                assert_eq!(&answer, b"HTTP/1.1 503");
                refused += 1;
            }
            Err(_) => idle.push(stream),
        }
    }
    assert!(refused >= 60 && idle.len() >= 20, "{refused} refused, {} held", idle.len());
    // Who was there before is served as ever.
    ask_on(&network, &mut kept).await;
    drop(idle);
    network.serves().await;
    network.is_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_without_a_file_to_open_serves_whom_it_has_rests_and_recovers() {
    let _quiet = QUIET.lock().await;
    if !process::is_known() {
        return skip("exhausted files", "There is no /proc here.");
    }
    let mut network = Network::with_coordinator("ulimit -n 1024;").await;
    join(&mut network).await;
    let mut kept = Some(connection(&network).await);
    let pid = network.coordinator.as_ref().unwrap().pid();
    let open = process::sample(pid).files;
    if !process::limit(pid, &format!("--nofile={}:1024", open + 2)) {
        return skip("exhausted files", "There is no prlimit here (util-linux).");
    }
    // The system takes them in, and the coordinator cannot.
    let mut waiting = Vec::new();
    for _ in 0..50 {
        waiting.push(TcpStream::connect(network.address).await.unwrap());
    }
    let (begun, before) = (Instant::now(), process::cpu(pid));
    while begun.elapsed() < WATCHED {
        ask_on(&network, &mut kept).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let busy = process::cpu(pid).saturating_sub(before);
    println!("without files: {busy:?} of processor time in {WATCHED:?}");
    assert!(busy < WATCHED / 4, "{busy:?} of processor time in {WATCHED:?}");
    assert_eq!(network_has_nodes(&network, &mut kept).await, 1);
    // Those who wait are served as soon as others leave, without a limit that grows.
    let mut last = waiting.pop().unwrap();
    drop(waiting);
    let request = Request::get("/healthz").bytes();
    last.write_all(&request).await.unwrap();
    let mut answer = [0; 12];
    timeout(SOON, last.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    drop(last);
    network.serves().await;
    network.is_idle().await;
}

/// Lets a node join.
async fn join(network: &mut Network) {
    network.start(Part::ModelServer).await;
    network.nodes.push(None);
    network.start(Part::Node(0)).await;
    network.serves().await;
}

/// Opens a connection that stays.
async fn connection(network: &Network) -> BufReader<TcpStream> {
    let reply = caller::send(network.address, &Request::get("/healthz")).await.unwrap();
    spent(reply).await
}

async fn spent(mut reply: caller::Reply) -> BufReader<TcpStream> {
    let text = reply.text().await.unwrap();
    assert_eq!(reply.status, 200, "{text}");
    reply.into_connection()
}

/// Asks the node on a connection that is open already.
async fn ask_on(network: &Network, connection: &mut Option<BufReader<TcpStream>>) {
    let request = Request::post("/v1/chat/completions", chat("there?", false)).bearer(&network.key);
    let open = connection.take().unwrap();
    let reply = timeout(HEALED, caller::send_on(open, &request)).await.unwrap().unwrap();
    *connection = Some(spent(reply).await);
}

async fn network_has_nodes(
    network: &Network,
    connection: &mut Option<BufReader<TcpStream>>,
) -> usize {
    let request = Request::get("/nodes").bearer(&network.key);
    let mut reply = caller::send_on(connection.take().unwrap(), &request).await.unwrap();
    let nodes = reply.json().await["nodes"].as_array().unwrap().len();
    *connection = Some(reply.into_connection());
    nodes
}
