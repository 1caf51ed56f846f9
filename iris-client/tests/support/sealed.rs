//! A coordinator with nodes that answers sealed requests, honestly or as a test tells it to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Response};
use iris_core::Timestamp;
use iris_core::backend::{BackendError, Finish, Usage};
use iris_core::model::{Abilities, ModelOffer};
use iris_core::standing::Standing;
use iris_crypto::certificate::{Claims, Origin, Role, SignedCertificate};
use iris_crypto::log::{Entry, Frontier, ProofPlan, SignedCheckpoint, Tile, TileId, TreeHash};
use iris_crypto::seal::{
    AnswerSealer, MEDIA_TYPE, Outcome, Pieces, Prompt, SealedRequest, SignedReceipt,
};
use iris_crypto::{Identity, SealingKey};
use iris_protocol::rest::{FreeSlots, Roster, RosterNode, SignedRoster};
use iris_protocol::text::Bytes32;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

/// The model that all nodes offer.
pub(crate) const MODEL: &str = "m";

/// A node, and all its secrets.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) key: SealingKey,
    pub(crate) certificate: SignedCertificate,
    pub(crate) offer: ModelOffer,
    pub(crate) free: FreeSlots,
    /// Tells nodes of one owner from those of others.
    pub(crate) owner: String,
    /// The data sets that it announces.
    pub(crate) datasets: Vec<String>,
    pub(crate) slots: u32,
}

impl Node {
    pub(crate) fn new(coordinator: &Identity) -> Self {
        let (identity, key) = (Identity::generate(), SealingKey::generate());
        let origin = Origin::from(coordinator.public());
        let public = key.public();
        let certificate =
            SignedCertificate::issue(&identity, Role::Node, public, &origin, now(), 10);
        let mut offer = ModelOffer::new(MODEL.parse().expect("it is a name"), 8192);
        offer.abilities = Abilities::EMBEDDINGS;
        let owner = data_encoding::HEXLOWER.encode(&identity.public().as_bytes()[..16]);
        Self {
            identity,
            key,
            certificate,
            offer,
            free: FreeSlots::Many,
            owner,
            datasets: Vec::new(),
            slots: 4,
        }
    }

    pub(crate) fn id(&self) -> iris_core::NodeId {
        self.identity.node_id()
    }

    /// Signs another certificate, changed by `change`.
    pub(crate) fn certify(&mut self, change: impl FnOnce(&mut Claims)) {
        let mut claims = self.certificate.unverified_claims().clone();
        change(&mut claims);
        self.certificate = SignedCertificate::sign(&self.identity, claims);
    }
}

type OnSealed = Arc<dyn Fn(&mut State, SealedRequest) -> Response<Body> + Send + Sync>;
type OnRoster = Arc<dyn Fn(&mut SignedRoster) + Send + Sync>;
type OnOther = Arc<dyn Fn(&State, &str) -> Option<Response<Body>> + Send + Sync>;

/// What the coordinator has, and how it behaves.
pub(crate) struct State {
    pub(crate) coordinator: Identity,
    pub(crate) nodes: Vec<Node>,
    pub(crate) away: Vec<String>,
    /// How far back the clock of the coordinator is, in seconds.
    pub(crate) behind: i64,
    /// How old each roster is when it is published, in seconds.
    pub(crate) age: i64,
    pub(crate) on_sealed: OnSealed,
    pub(crate) on_roster: Option<OnRoster>,
    /// Answers before everything else does.
    pub(crate) on_other: Option<OnOther>,
    pub(crate) calls: Vec<String>,
    pub(crate) keys: Vec<Option<String>>,
    /// The sealed requests that came.
    pub(crate) asked: Vec<SealedRequest>,
    pub(crate) log: Log,
    number: u64,
}

/// A log with its tiles.
#[derive(Default)]
pub(crate) struct Log {
    frontier: Frontier,
    tiles: BTreeMap<TileId, Tile>,
    entries: Vec<Vec<u8>>,
}

impl Log {
    pub(crate) fn append(&mut self, entry: &Entry) {
        let tiles = self.frontier.append_all(&[entry.leaf_hash()]).expect("it is small");
        self.tiles.extend(tiles);
        self.entries.push(entry.encode());
    }

    pub(crate) fn size(&self) -> u64 {
        self.frontier.size()
    }

    pub(crate) fn checkpoint(&self, coordinator: &Identity) -> String {
        let (size, root) = (self.frontier.size(), self.frontier.root());
        SignedCheckpoint::sign(coordinator, size, root).text().to_owned()
    }

    fn prove(&self, plan: Result<ProofPlan, iris_crypto::log::LogError>) -> Option<Vec<Bytes32>> {
        let hashes = plan.ok()?.compute(|id| self.tiles.get(&id)).ok()?;
        Some(hashes.iter().map(|hash: &TreeHash| Bytes32::from(*hash.as_bytes())).collect())
    }
}

impl State {
    pub(crate) fn add_node(&mut self) -> usize {
        let node = Node::new(&self.coordinator);
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Forgets the log and begins another, of the same coordinator.
    pub(crate) fn fork(&mut self, entries: u8) {
        self.log = Log::default();
        self.log.append(&Entry::Coordinator(self.coordinator.public()));
        for number in 0..entries {
            self.log.append(&Entry::Roster([number; 32]));
        }
    }

    /// Returns which node a request is sealed to.
    pub(crate) fn addressee(&self, request: &SealedRequest) -> usize {
        let hash = request.header().certificate;
        let node = self.nodes.iter().position(|node| node.certificate.hash() == hash);
        node.expect("it is sealed to a node")
    }

    /// Opens a request as its node would.
    pub(crate) fn open(&self, request: &SealedRequest) -> (usize, Prompt, AnswerSealer) {
        let node = self.addressee(request);
        let (prompt, sealer) = request.open(&self.nodes[node].key).expect("it opens");
        (node, prompt, sealer)
    }

    /// Answers as a node that says `text` would: each record on its own.
    pub(crate) fn records(&self, request: &SealedRequest, text: &str) -> Vec<Vec<u8>> {
        let (node, prompt, sealer) = self.open(request);
        let pieces = if prompt.stream {
            text.split_inclusive(' ').map(|word| Piece::Text(word.to_owned())).collect()
        } else {
            vec![Piece::Whole(whole(text))]
        };
        self.write(node, sealer, &pieces, "stop", USAGE)
    }

    /// Seals an answer of `pieces` that comes to its end.
    pub(crate) fn write(
        &self,
        node: usize,
        mut sealer: AnswerSealer,
        pieces: &[Piece],
        reason: &str,
        billed: Usage,
    ) -> Vec<Vec<u8>> {
        let mut records = vec![Vec::new()];
        sealer.opening(&mut records[0]);
        for piece in pieces {
            records.extend(piece.seal(&mut sealer));
        }
        let finish = Finish { reason: reason.to_owned(), usage: USAGE };
        let mut end = Vec::new();
        sealer.end(&finish, &mut end).expect("it fits");
        records.push(end);
        let mut last = Vec::new();
        let identity = &self.nodes[node].identity;
        let receipt = sealer.finish(identity, Outcome::Complete, billed, &mut last);
        records.push(last);
        records.push(record(&receipt.expect("it fits")));
        records
    }

    /// Seals an answer that fails after `pieces`.
    pub(crate) fn fail(
        &self,
        request: &SealedRequest,
        pieces: &[Piece],
        error: &BackendError,
    ) -> Vec<Vec<u8>> {
        let (node, _, mut sealer) = self.open(request);
        let mut records = vec![Vec::new()];
        sealer.opening(&mut records[0]);
        for piece in pieces {
            records.extend(piece.seal(&mut sealer));
        }
        let mut fault = Vec::new();
        sealer.fault(error, &mut fault).expect("it fits");
        records.push(fault);
        let mut last = Vec::new();
        let identity = &self.nodes[node].identity;
        let receipt = sealer.finish(identity, Outcome::Failed, USAGE, &mut last);
        records.push(last);
        records.push(record(&receipt.expect("it fits")));
        records
    }

    fn roster(&mut self) -> SignedRoster {
        self.number += 1;
        let mut nodes: Vec<_> = self.nodes.iter().map(listed).collect();
        nodes.sort_by_key(|node| node.id);
        for node in &self.nodes {
            let entry = Entry::Certificate(node.certificate.hash());
            if !self.log.entries.contains(&entry.encode()) {
                self.log.append(&entry);
            }
        }
        let issued = now().as_secs().cast_signed() - self.behind - self.age;
        let roster = Roster {
            coordinator: self.coordinator.public().to_string().parse().expect("it is a label"),
            number: self.number,
            issued: issued.cast_unsigned(),
            nodes,
            away: self.away.iter().map(|name| name.parse().expect("it is a name")).collect(),
        };
        let roster = serde_json::to_string(&roster).expect("it has a JSON form");
        let index = self.log.size();
        self.log.append(&Entry::Roster(Sha256::digest(&roster).into()));
        let hashes = self.log.prove(ProofPlan::inclusion(index, self.log.size()));
        let checkpoint = self.log.checkpoint(&self.coordinator);
        let mut signed =
            SignedRoster { roster, index, hashes: hashes.expect("it is there"), checkpoint };
        if let Some(change) = self.on_roster.clone() {
            change(&mut signed);
        }
        signed
    }

    fn handle(&mut self, call: &str, query: &str, body: Bytes) -> Response<Body> {
        if let Some(answer) = self.on_other.clone().and_then(|other| other(self, call)) {
            return answer;
        }
        let number = |name: &str| {
            let field = query.split('&').find_map(|field| field.strip_prefix(name));
            field.and_then(|field| field.strip_prefix('=')?.parse::<u64>().ok()).unwrap_or(0)
        };
        let proof = |hashes: Option<Vec<Bytes32>>| match hashes {
            Some(hashes) => {
                super::json(200, &[], &serde_json::json!({ "hashes": hashes }).to_string())
            }
            None => super::refusal(400, "no_such_proof"),
        };
        match call {
            "GET /roster" => {
                let signed = serde_json::to_string(&self.roster()).expect("it has a JSON form");
                let date = SystemTime::now() - Duration::from_secs(self.behind.unsigned_abs());
                super::json(200, &[("date", &httpdate::fmt_http_date(date))], &signed)
            }
            "GET /log/checkpoint" => {
                Response::new(Body::from(self.log.checkpoint(&self.coordinator)))
            }
            "GET /log/consistency" => {
                let (from, to) = (number("from"), number("to"));
                let known = to <= self.log.size();
                proof(self.log.prove(ProofPlan::consistency(from, to)).filter(|_| known))
            }
            "GET /log/entries" => {
                let (start, count) = (number("start"), number("count"));
                let entries = self.log.entries.iter().skip(usize::try_from(start).unwrap_or(0));
                let entries: Vec<_> = entries
                    .take(usize::try_from(count).unwrap_or(0))
                    .map(|entry| data_encoding::BASE64URL_NOPAD.encode(entry))
                    .collect();
                let body = serde_json::json!({ "start": start, "entries": entries });
                super::json(200, &[], &body.to_string())
            }
            "GET /v1/models" => super::json(200, &[], &super::models(&[MODEL, "open-only"])),
            "GET /healthz" => {
                super::json(200, &[], r#"{"status":"ok","nodes":1,"models":1,"uptime_secs":1}"#)
            }
            "POST /sealed" => {
                let request = SealedRequest::decode(body).expect("it is sealed");
                self.asked.push(request.clone());
                let on_sealed = Arc::clone(&self.on_sealed);
                on_sealed(self, request)
            }
            _ => super::refusal(404, "not_found"),
        }
    }
}

/// What an answer is made of.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Text(String),
    Json(String),
    Whole(String),
}

impl Piece {
    fn seal(&self, sealer: &mut AnswerSealer) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let data = match self {
            Self::Text(text) | Self::Json(text) | Self::Whole(text) => text,
        };
        let mut done = 0;
        while done < data.len() {
            let mut pieces = Pieces::new(sealer.shape());
            done += match self {
                Self::Text(text) => pieces.push_text(&text[done..]),
                Self::Json(json) => pieces.push_json(&json.as_bytes()[done..]),
                Self::Whole(json) => pieces.push_whole(&json.as_bytes()[done..]),
            };
            let mut record = Vec::new();
            sealer.seal(&pieces, &mut record).expect("it fits");
            records.push(record);
        }
        records
    }
}

/// What every answer here costs.
pub(crate) const USAGE: Usage = Usage { prompt_tokens: 9, completion_tokens: 2 };

/// A whole answer, as a node's model server writes it.
pub(crate) fn whole(text: &str) -> String {
    serde_json::json!({ "choices": [{ "index": 0,
        "message": { "role": "assistant", "content": text, "refusal": null },
        "logprobs": null, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11 } })
    .to_string()
}

fn record(receipt: &SignedReceipt) -> Vec<u8> {
    let mut record = Vec::new();
    receipt.write_record(&mut record);
    record
}

/// Answers with records, as the coordinator passes them on.
pub(crate) fn sealed(records: &[Vec<u8>]) -> Response<Body> {
    let pieces: Vec<_> = records.iter().map(|r| Ok::<_, std::io::Error>(r.clone())).collect();
    Response::builder()
        .header("content-type", MEDIA_TYPE)
        .header("x-request-id", "req-1")
        // What the coordinator says of these is not believed.
        .header("x-iris-node", super::NODE)
        .header("x-iris-privacy", "open")
        .body(Body::from_stream(futures::stream::iter(pieces)))
        .expect("the test's answer is valid")
}

/// Refuses a sealed request, with advice on when to try again.
pub(crate) fn busy() -> Response<Body> {
    let body = r#"{"error":{"message":"busy","type":"t","param":null,"code":"node_busy"}}"#;
    super::json(429, &[("retry-after-ms", "1")], body)
}

fn listed(node: &Node) -> RosterNode {
    RosterNode {
        id: node.id(),
        name: None,
        certificate: node.certificate.encoded().to_vec().try_into().expect("it fits"),
        models: vec![node.offer.clone()],
        datasets: node.datasets.iter().map(|name| name.parse().expect("it is a label")).collect(),
        tier: None,
        memory_gb: None,
        callers: iris_core::terms::Callers::Public,
        slots: node.slots,
        free: node.free,
        points: 100,
        standing: Standing::default(),
        since: 1,
        owner: node.owner.parse().expect("it is a label"),
    }
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later");
    Timestamp::from_millis(u64::try_from(since.as_millis()).expect("it is not that late"))
}

/// A running coordinator.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

impl Network {
    /// Starts a coordinator with `nodes` honest nodes that say "hello there".
    pub(crate) async fn start(nodes: usize) -> Self {
        let coordinator = Identity::generate();
        let mut state = State {
            nodes: (0..nodes).map(|_| Node::new(&coordinator)).collect(),
            coordinator,
            away: Vec::new(),
            behind: 0,
            age: 0,
            on_sealed: Arc::new(|state, request| sealed(&state.records(&request, "hello there"))),
            on_roster: None,
            on_other: None,
            calls: Vec::new(),
            keys: Vec::new(),
            asked: Vec::new(),
            log: Log::default(),
            number: 0,
        };
        state.fork(0);
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("the listener is bound"));
        let shared = Arc::clone(&state);
        let handler = move |request: Request| {
            let shared = Arc::clone(&shared);
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 64 << 20).await.unwrap_or_default();
                let call = format!("{} {}", head.method, head.uri.path());
                let query = head.uri.query().unwrap_or("").to_owned();
                let mut state = lock(&shared);
                state.calls.push(call.clone());
                state.keys.push(key(&head.headers));
                state.handle(&call, &query, body)
            }
        };
        let app =
            axum::Router::new().fallback(handler).layer(axum::extract::DefaultBodyLimit::disable());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, state }
    }

    /// Looks at the coordinator, or changes it.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut lock(&self.state))
    }

    /// Sets how sealed requests are answered.
    pub(crate) fn on_sealed(
        &self,
        answer: impl Fn(&mut State, SealedRequest) -> Response<Body> + Send + Sync + 'static,
    ) {
        self.with(|state| state.on_sealed = Arc::new(answer));
    }

    /// Returns how often sealed requests came.
    pub(crate) fn asked(&self) -> usize {
        self.with(|state| state.asked.len())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A test that fails while it holds the state says so by itself.
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn key(headers: &HeaderMap) -> Option<String> {
    headers.get("authorization")?.to_str().ok().map(str::to_owned)
}
