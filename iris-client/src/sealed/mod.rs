//! Requests that the coordinator cannot read: choosing a node, sealing to it, and sealing again
//! to the next when it is busy or lost.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use iris_core::backend::{BackendError, Operation};
use iris_core::demand::{Demand, Own, Trust};
use iris_core::scheduler::{Balanced, Scheduler};
use iris_core::task::TaskError;
use iris_core::{NodeId, TaskId, Timestamp};
use iris_crypto::VerifiedCertificate;
use iris_crypto::certificate::SignedCertificate;
use iris_crypto::log::TreeHash;
use iris_crypto::seal::{
    MAX_REQUEST, MAX_TTL, MEDIA_TYPE, Prompt, SealError, SealedRequest, Shape, Terms,
};
use iris_protocol::openai::{Asked, Heading, PREFERENCES, Preferences, RequestError, count_values};
use iris_protocol::rest::{ConsistencyProof, FreeSlots, SignedRoster};
use reqwest::header::{self, HeaderMap};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use crate::client::{Call, Client, MAX_VALUES};
use crate::error::{ClientError, Cut, Partial};
use crate::head::Head;
use crate::policy::Privacy;
use crate::trust::{Clocks, Growth, TrustError, TrustStore, Verdict};

mod answer;
mod asking;
mod choosing;
mod listing;
mod traffic;
mod unnamed;

pub(crate) use answer::{Content, SealedAnswer};
pub use answer::{NoReceipt, PendingReceipt};
pub(crate) use choosing::Choosing;
pub(crate) use listing::Listing;
pub(crate) use traffic::Traffic;

use answer::{Records, Stop};
use asking::DOUBTFUL;
use traffic::Turn;

/// How often nodes that the roster calls free may be said to be busy, in a row.
const MOST_REFUSALS: u32 = 5;

/// What the sealed requests of a client share.
pub(crate) struct Sealed {
    pub(crate) trust: TrustStore,
    listing: tokio::sync::Mutex<Option<Arc<Listing>>>,
    /// Certificates that were verified already; the last of each node.
    verified: Mutex<BTreeMap<NodeId, VerifiedCertificate>>,
    refusals: Mutex<Refusals>,
    scheduler: Arc<dyn Scheduler>,
    /// `None`: as the privacy label has it.
    shape: Option<Shape>,
}

/// How often in a row nodes that the roster calls free were said to be busy.
#[derive(Default)]
struct Refusals {
    in_a_row: u32,
    /// The same of each node, and the roster by which it was counted last. A coordinator that
    /// steers lets the node of its choice answer between the refusals of all others.
    nodes: BTreeMap<NodeId, (u32, u64)>,
}

/// What is asked, and what was read of it.
pub(crate) struct Question {
    operation: Operation,
    body: Bytes,
    pub(crate) asked: Asked,
}

/// A whole answer, with its envelope.
pub(crate) struct WholeAnswer {
    pub(crate) body: Vec<u8>,
    pub(crate) head: Head,
    pub(crate) privacy: Privacy,
    pub(crate) receipt: PendingReceipt,
}

/// How one sealing ended, if it is worth another.
enum Attempt {
    Answered(Box<SealedAnswer>),
    /// The node takes nothing now.
    Busy(Option<Duration>),
    /// The node is not there, or has not the model any more.
    Unable,
    /// The node will not have the request, and does not say why.
    Rejected(ClientError),
    /// The node has another key by now.
    StaleKey(Option<Box<SignedCertificate>>),
    /// The node had taken the request, and nothing came of it.
    Lost,
}

impl Sealed {
    pub(crate) fn new(trust: TrustStore, shape: Option<Shape>) -> Self {
        Self {
            trust,
            listing: tokio::sync::Mutex::new(None),
            verified: Mutex::default(),
            refusals: Mutex::default(),
            scheduler: Arc::new(Balanced),
            shape,
        }
    }

    /// Counts that a node that the roster calls free is said to be busy. A node counts once for
    /// each roster: asked again, it may still be busy.
    fn refused(&self, node: NodeId, listing: &Listing) -> Result<(), ClientError> {
        let is_free = listing.node(&node).is_some_and(|node| node.free != FreeSlots::None);
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, roster) = refusals.nodes.get(&node).copied().unwrap_or_default();
        if is_free && (count == 0 || roster != listing.number) {
            refusals.nodes.insert(node, (count + 1, listing.number));
            refusals.in_a_row += 1;
        }
        let of_node = refusals.nodes.get(&node).map_or(0, |(count, _)| *count);
        let refusals = refusals.in_a_row.max(of_node);
        if refusals > MOST_REFUSALS {
            return Err(ClientError::SteeringSuspected { refusals });
        }
        Ok(())
    }

    fn accepted(&self, node: NodeId) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.in_a_row = 0;
        refusals.nodes.remove(&node);
    }

    fn verify(
        &self,
        node: NodeId,
        certificate: &SignedCertificate,
    ) -> Result<VerifiedCertificate, TrustError> {
        let now = now();
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = verified.get(&node)
            && known.certificate() == certificate
            && now < known.claims().not_after
        {
            return Ok(known.clone());
        }
        let new = self.trust.with(|trust| trust.verify_certificate(node, certificate, now))?;
        verified.insert(node, new.clone());
        Ok(new)
    }
}

impl Question {
    /// Reads what is asked, as the coordinator would.
    pub(crate) fn read(operation: Operation, body: Bytes) -> Result<Self, RequestError> {
        let asked = Asked::read(operation, &body)?;
        Ok(Self { operation, body, asked })
    }

    #[cfg(feature = "proxy")]
    pub(crate) const fn operation(&self) -> Operation {
        self.operation
    }

    #[cfg(feature = "proxy")]
    pub(crate) const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Refuses what only the coordinator can keep, or the client's policy.
    fn check(&self) -> Result<(), RequestError> {
        let Preferences { own, trust, .. } = self.asked.preferences;
        let message = match (own, trust) {
            (Own::Only, _) => "a sealed request goes to own nodes alone by the policy 'own'",
            (_, Trust::Trusted) => "only the coordinator knows whom its operator trusts",
            _ => return Ok(()),
        };
        let message = format!("'{PREFERENCES}' cannot be kept: {message}.").into();
        Err(RequestError::Invalid { message, param: Some(PREFERENCES) })
    }

    fn demand(&self) -> Demand {
        let Asked { model, prompt_tokens, max_tokens, abilities, dataset, .. } = &self.asked;
        let Preferences { own: _, tier, trust, allow, deny } = &self.asked.preferences;
        Demand {
            min_tier: *tier,
            trust: *trust,
            only: allow.clone(),
            denied: deny.clone(),
            context_tokens: prompt_tokens.saturating_add(*max_tokens),
            abilities: *abilities,
            dataset: dataset.clone(),
            ..Demand::new(model.clone())
        }
    }
}

impl Client {
    /// Asks a node in such a way that nobody else can read it, and waits until the answer begins.
    pub(crate) async fn ask_sealed(
        &self,
        question: &Question,
    ) -> Result<SealedAnswer, ClientError> {
        self.ask_chosen(question, &Choosing::default()).await
    }

    /// Asks in the same way, and waits for the whole answer.
    pub(crate) async fn whole_sealed(
        &self,
        question: &Question,
        created: u64,
    ) -> Result<WholeAnswer, ClientError> {
        let deadline = Instant::now() + self.settings().timeout;
        let mut answer = self.ask_sealed(question).await?;
        let read = timeout_at(deadline, answer.whole()).await;
        let (task, head) = (answer.task, answer.head.clone());
        let heading = Heading {
            operation: question.operation,
            task,
            created,
            model: question.asked.model.as_str(),
        };
        let late = |_| Err(Cut::Silent(self.settings().timeout));
        let body = read.unwrap_or_else(late).and_then(|whole| {
            let invalid = |_| Cut::Malformed("it is not an answer".to_owned());
            if count_values(&whole) > MAX_VALUES {
                return Err(Cut::TooLarge);
            }
            heading.whole(&whole).map_err(invalid)
        });
        match body {
            Ok(body) => {
                let (privacy, receipt) = (answer.privacy, answer.receipt());
                Ok(WholeAnswer { body, head, privacy, receipt })
            }
            Err(cause) => {
                let text = String::new();
                Err(ClientError::Truncated(Box::new(Partial { text, cause, head })))
            }
        }
    }

    /// Seals to one node, sends it, and waits for the answer's beginning.
    async fn attempt(
        &self,
        question: &Question,
        turn: Turn,
        privacy: Privacy,
        certificate: &VerifiedCertificate,
        deadline: Instant,
        taken: impl FnOnce(TaskId) + Send,
    ) -> Result<Attempt, ClientError> {
        let node = turn.node();
        let left = deadline.saturating_duration_since(Instant::now()).min(MAX_TTL);
        let terms = Terms {
            // A stream may go on for longer than its beginning was waited for.
            ttl: if question.asked.stream { MAX_TTL } else { left },
            max_tokens: question.asked.max_tokens,
            shape: self.sealed().shape.unwrap_or(match privacy {
                Privacy::Own => Shape::Off,
                _ => Shape::Paced,
            }),
            ..Terms::new(question.asked.model.clone(), now())
        };
        let prompt = Prompt {
            operation: question.operation,
            stream: question.asked.stream,
            body: question.asked.body_for_nodes(&question.body),
        };
        let (request, opener) =
            SealedRequest::seal(certificate, terms, &prompt).map_err(|error| match error {
                SealError::TooLong => ClientError::local(RequestError::TooLarge(MAX_REQUEST)),
                _ => ClientError::Trust(TrustError::Roster("a node's key is of small order")),
            })?;
        let task = TaskId::from_bytes(request.header().task);
        let call = Call::sealed(request.wire().clone());
        let response = self.request(&call).await?;
        if !response.status().is_success() {
            return self.refused(response).await;
        }
        let head = Head { node: Some(node), task: Some(task), ..Head::read(response.headers()) };
        if !is_sealed(response.headers()) {
            return Err(ClientError::downgrade("answered a sealed request in the clear", &head));
        }
        taken(task);
        let idle = self.settings().idle_timeout;
        let (mut records, receipt) = Records::new(response, opener, idle, turn);
        let first = match records.next().await {
            Ok(first) => first,
            Err(Stop::Failed(BackendError::Rejected { status, code, param, message })) => {
                let error = TaskError::Rejected { status, code, param, message };
                return Err(ClientError::local(error).of_request(head.request_id));
            }
            Err(Stop::Failed(_) | Stop::Cut(_)) => return Ok(Attempt::Lost),
            Err(Stop::Broken(cause)) => {
                let cause = Cut::Broken(cause);
                let text = String::new();
                return Err(ClientError::Truncated(Box::new(Partial { text, cause, head })));
            }
        };
        let records = Some(records);
        let answer = SealedAnswer { head, privacy, task, first: Some(first), records, receipt };
        Ok(Attempt::Answered(Box::new(answer)))
    }

    /// Reads why a sealed request is not taken.
    async fn refused(&self, mut response: reqwest::Response) -> Result<Attempt, ClientError> {
        let body = self.read_refusal(&mut response).await;
        let error = ClientError::refused(response.status(), response.headers(), &body);
        let Some(refusal) = error.refusal() else { return Err(error) };
        match (refusal.status, refusal.code()) {
            (409, Some("stale_key")) => {
                let stale: StaleKey = serde_json::from_slice(&body).unwrap_or_default();
                Ok(Attempt::StaleKey(stale.certificate.map(Box::new)))
            }
            (429, Some("node_busy")) => Ok(Attempt::Busy(refusal.retry_after)),
            (503, Some("node_offline")) | (404, Some("model_not_found")) => Ok(Attempt::Unable),
            // It was taken, and its node failed before it said anything.
            (502, Some("nodes_failed" | "interrupted")) => Ok(Attempt::Lost),
            (400, Some("seal_rejected")) => Ok(Attempt::Rejected(error)),
            (404 | 405 | 501, _) => {
                let head = Head::read(response.headers());
                Err(ClientError::downgrade("does not take sealed requests", &head))
            }
            _ => Err(error),
        }
    }

    /// Returns the roster of now, give or take a second.
    pub(crate) async fn roster_now(&self) -> Result<Arc<Listing>, ClientError> {
        self.listing(DOUBTFUL).await
    }

    /// Returns the roster, at most `age` old, after checking it.
    pub(crate) async fn listing(&self, age: Duration) -> Result<Arc<Listing>, ClientError> {
        // Who comes meanwhile waits here and finds the new roster.
        let mut held = self.sealed().listing.lock().await;
        if let Some(listing) = &*held
            && listing.since.elapsed() < age
        {
            return Ok(Arc::clone(listing));
        }
        let since = Instant::now();
        let (signed, headers) = self
            .call::<SignedRoster>(Call::get("roster"))
            .await
            .map_err(|error| error.without("publishes no roster of nodes to seal to"))?;
        let clocks = Clocks { ours: now(), theirs: date(&headers) };
        let mut proof = None;
        let roster = loop {
            let verdict = self
                .sealed()
                .trust
                .with(|trust| trust.handle_roster(&signed, proof.as_ref(), clocks))?;
            match verdict {
                Verdict::Believed(roster) => break *roster,
                Verdict::ProofNeeded { from, to } => {
                    proof = Some(self.growth(from, to, &signed.checkpoint).await?);
                }
            }
        };
        let listing = Arc::new(Listing::new(roster, since));
        *held = Some(Arc::clone(&listing));
        Ok(listing)
    }

    /// Asks for the proof that the log only grew. A coordinator that has none has two logs.
    pub(crate) async fn growth(
        &self,
        from: u64,
        to: u64,
        shown: &str,
    ) -> Result<Growth, ClientError> {
        let call = Call::get(format!("log/consistency?from={from}&to={to}"));
        match self.call::<ConsistencyProof>(call).await {
            Ok((proof, _)) => {
                let hashes = proof.hashes.iter().map(|hash| TreeHash::from_bytes(hash.0)).collect();
                Ok(Growth { from, to, hashes })
            }
            Err(ClientError::BadRequest(_) | ClientError::NotFound(_)) => {
                let unproven =
                    self.sealed().trust.with(|trust| Err::<(), _>(trust.unproven(shown)));
                Err(unproven.expect_err("it is one").into())
            }
            Err(error) => Err(error),
        }
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("trust_file", &self.trust.file()).finish_non_exhaustive()
    }
}

/// What a coordinator adds to the refusal of a request that is sealed to an old key.
#[derive(Default, Deserialize)]
struct StaleKey {
    certificate: Option<SignedCertificate>,
}

fn is_sealed(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.split(';').next().unwrap_or("").trim() == MEDIA_TYPE)
}

/// Returns what the coordinator says the time is.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let date = httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()?;
    let since = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(u64::try_from(since.as_millis()).ok()?))
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn random() -> u64 {
    // Without randomness the choice is predictable, and as safe.
    getrandom::u64().unwrap_or(0)
}
