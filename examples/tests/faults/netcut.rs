//! A cable that is pulled, in a network that this test makes for itself.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::live::caller::{self, Request, text_of};
use crate::live::chat;
use crate::live::child::{Child, end_with_parent};
use crate::network::open_account;
use crate::roles::{COORDINATOR, LISTEN, LOST, MODEL_SERVER, NODE_KEY, NODE_NUMBER, STORE};
use crate::{HEALED, skip};

const APART: &str = "IRIS_TEST_APART";

/// The coordinator's end of the cable, and the node's.
const HERE: &str = "10.77.0.1";
const THERE: &str = "10.77.0.2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cable_that_is_pulled_harms_no_answer_for_a_moment_and_ends_it_by_type_for_longer() {
    let able = "ip link set lo up && ip link add name cable type veth peer name other";
    let able = Command::new("unshare").args(["-n", "sh", "-c", able]).output();
    if !able.is_ok_and(|output| output.status.success()) {
        return skip("a cut network", "This user may not make networks, or there is no iproute2.");
    }
    let mut story = Child::start_within(
        &["unshare", "-n"],
        "ip link set lo up;",
        "netcut::story",
        &[(APART, "1")],
    );
    while let Some(line) = story.line().await {
        if line.contains("the story is told") {
            return;
        }
        println!("{line}");
    }
    panic!("the story has not come to its end");
}

/// Runs in a namespace of its own, where the coordinator and its callers are; the node and its
/// model server are in another, at the other end of a cable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs as a child process of the test above"]
async fn story() {
    if std::env::var_os(APART).is_none() {
        return;
    }
    end_with_parent();
    let apart = Apart::begin().await;
    apart.moment().await;
    apart.longer().await;
    apart.one_way().await;
    println!("the story is told");
}

struct Apart {
    _folder: tempfile::TempDir,
    key: String,
    address: SocketAddr,
    _children: [Child; 3],
}

impl Apart {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("iris.db");
        let (key, node_key) = open_account(database.clone()).await;
        let up = "ip link set lo up;";
        let listen = [(LISTEN, "127.0.0.1:0")];
        let mut server =
            Child::start_within(&["unshare", "-n"], up, "roles::model_server", &listen);
        let server_address = format!("http://{}", server.says("address ").await);
        let pid = server.pid().to_string();
        let there = ["nsenter", "-t", &pid, "-n"];
        run(&format!("ip link add name cable type veth peer name cable netns {pid}"));
        run(&format!("ip addr add {HERE}/24 dev cable && ip link set cable up"));
        let far = format!("ip addr add {THERE}/24 dev cable && ip link set cable up");
        run(&format!("{} sh -c '{far}'", there.join(" ")));
        let listen = format!("{HERE}:0");
        let settings = [(STORE, database.to_str().unwrap()), (LISTEN, &*listen)];
        let mut coordinator = Child::start("roles::coordinator", &settings);
        let address: SocketAddr = coordinator.says("address ").await.parse().unwrap();
        let url = format!("bare {address}");
        let settings = [
            (COORDINATOR, &*url),
            (NODE_KEY, &*node_key),
            (NODE_NUMBER, "1"),
            (MODEL_SERVER, &*server_address),
        ];
        let mut node = Child::start_within(&there, "", "roles::node", &settings);
        node.says("online").await;
        let children = [server, coordinator, node];
        let apart = Self { _folder: folder, key, address, _children: children };
        apart.heals().await;
        apart
    }

    /// A cut that is shorter than anybody's patience.
    async fn moment(&self) {
        let mut reply = self.ask_at_length().await;
        pull();
        tokio::time::sleep(LOST / 4).await;
        plug();
        let (answer, last) = rest(&mut reply).await;
        assert_eq!(
            (answer, &*last),
            (words(), "[DONE]"),
            "nothing is lost, and nothing comes twice"
        );
        self.heals().await;
    }

    /// A cut that outlasts the node's lease.
    async fn longer(&self) {
        let mut reply = self.ask_at_length().await;
        let begun = Instant::now();
        pull();
        self.ends_by_type(&mut reply).await;
        println!("a pulled cable was noticed after {:.1?}", begun.elapsed());
        assert!(begun.elapsed() < 3 * LOST, "{:?}", begun.elapsed());
        let whole = Request::post("/v1/chat/completions", chat("anybody?", false));
        let mut reply = caller::send(self.address, &whole.bearer(&self.key)).await.unwrap();
        let error = reply.json().await;
        assert_eq!(
            (reply.status, &error["error"]["code"]),
            (503, &"no_node_online".into()),
            "{error}"
        );
        plug();
        let begun = Instant::now();
        self.heals().await;
        println!("the node served again {:.1?} after the cable was back", begun.elapsed());
    }

    /// What the coordinator sends gets lost; what the node sends arrives.
    async fn one_way(&self) {
        let mut reply = self.ask_at_length().await;
        let begun = Instant::now();
        run(&format!("ip route add blackhole {THERE}/32"));
        self.ends_by_type_or_well(&mut reply).await;
        self.is_alone().await;
        println!("a road closed one way was noticed after {:.1?}", begun.elapsed());
        run(&format!("ip route del blackhole {THERE}/32"));
        self.heals().await;
    }

    /// Asks for an answer that takes about a second, and waits for its first word.
    async fn ask_at_length(&self) -> caller::Reply {
        let request = Request::post("/v1/chat/completions", chat(&words(), true)).bearer(&self.key);
        let mut reply = caller::send(self.address, &request).await.unwrap();
        let status = reply.status;
        assert_eq!(reply.word().await.unwrap().as_deref(), Some("word "), "{status}");
        reply
    }

    async fn ends_by_type(&self, reply: &mut caller::Reply) {
        let (answer, last) = rest(reply).await;
        assert!(words().starts_with(&answer));
        let error: Value = serde_json::from_str(&last).unwrap();
        assert_eq!(error["error"]["code"], "interrupted", "{error}");
    }

    /// The node may be through before it leaves.
    async fn ends_by_type_or_well(&self, reply: &mut caller::Reply) {
        let (answer, last) = rest(reply).await;
        let well = last == "[DONE]" && answer == words();
        assert!(well || last.contains("interrupted"), "{answer}{last}");
    }

    async fn nodes(&self) -> Value {
        let request = Request::get("/nodes").bearer(&self.key);
        caller::send(self.address, &request).await.unwrap().json().await["nodes"].take()
    }

    async fn is_alone(&self) {
        let begun = Instant::now();
        while self.nodes().await != Value::Array(vec![]) {
            assert!(begun.elapsed() < HEALED, "the node is not missed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until questions are answered again and no slot is taken.
    async fn heals(&self) {
        let begun = Instant::now();
        loop {
            let request = Request::post("/v1/chat/completions", chat("there?", false));
            let mut reply = caller::send(self.address, &request.bearer(&self.key)).await.unwrap();
            let answer = reply.text().await.unwrap();
            if reply.status == 200 && self.nodes().await[0]["running"] == 0 {
                return;
            }
            assert!(begun.elapsed() < HEALED, "{}: {answer}", reply.status);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn words() -> String {
    "word ".repeat(300)
}

/// Reads a stream to its end; returns its text, the first word included, and its last event.
async fn rest(reply: &mut caller::Reply) -> (String, String) {
    let (mut answer, mut last) = ("word ".to_owned(), String::new());
    let reading = async {
        while let Some(event) = reply.event().await.unwrap() {
            answer.extend(text_of(&event));
            last = event;
        }
    };
    tokio::time::timeout(HEALED, reading).await.expect("the stream ends");
    (answer, last)
}

fn pull() {
    run("ip link set cable down");
}

fn plug() {
    run("ip link set cable up");
}

fn run(command: &str) {
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
}
