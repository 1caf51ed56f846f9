//! Asking one node after another, until one answers.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use iris_core::NodeId;
use iris_core::demand::Demand;
use iris_core::plan::Placed;
use iris_core::task::TaskError;
use iris_crypto::VerifiedCertificate;
use iris_crypto::certificate::SignedCertificate;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::answer::SealedAnswer;
use super::choosing::{Choice, Choosing};
use super::traffic::Turn;
use super::{Attempt, Listing, Question};
use crate::client::Client;
use crate::error::ClientError;
use crate::policy::Privacy;
use crate::retry;
use crate::trust::TrustError;

/// How long a roster is used before the next one is fetched.
pub(super) const ROSTER_LIFE: Duration = Duration::from_mins(1);
/// The age from which a roster that does not list what is asked for is not the last word.
pub(super) const DOUBTFUL: Duration = Duration::from_secs(1);
/// When a coordinator has a new roster, if anything changed since the last: it makes one a second,
/// counted from when that one was made.
const RENEWED: Duration = Duration::from_millis(1200);
/// How long a request waits for a busy network, as it does in the coordinator's queue.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest wait between two rounds.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// How often a request is sealed again after a node had taken it.
const ALTERNATES: u32 = 1;

/// One request on its way through the nodes.
struct Asking<'a> {
    client: &'a Client,
    question: &'a Question,
    choosing: &'a Choosing,
    demand: Demand,
    deadline: Instant,
    /// Since when it waits for nodes that others keep busy.
    waiting: Instant,
    /// Nodes that are not asked again in this round.
    tried: Vec<NodeId>,
    /// Keys that the coordinator says are newer than the roster's.
    keys: BTreeMap<NodeId, SignedCertificate>,
    /// How many nodes had taken it and said nothing.
    lost: u32,
    /// How old the roster may be for the next look.
    age: Duration,
    /// When busy nodes may be free again.
    wait: Option<Duration>,
    /// Whether the roster was fetched anew because it lists nobody who could answer.
    doubted: bool,
    /// Whether it was fetched anew because it has an old key.
    renewed: bool,
    rejected: Option<ClientError>,
}

type Step = ControlFlow<Box<SealedAnswer>>;

impl Client {
    /// Asks a node as `choosing` says, in such a way that nobody else can read it, and waits until
    /// the answer begins.
    pub(crate) async fn ask_chosen(
        &self,
        question: &Question,
        choosing: &Choosing,
    ) -> Result<SealedAnswer, ClientError> {
        question.check().map_err(ClientError::local)?;
        let begun = Instant::now();
        let asking = Asking {
            client: self,
            question,
            choosing,
            demand: question.demand(),
            deadline: choosing.deadline.unwrap_or(begun + self.settings().timeout),
            waiting: begun,
            tried: Vec::new(),
            keys: BTreeMap::new(),
            lost: 0,
            age: ROSTER_LIFE,
            wait: None,
            doubted: false,
            renewed: false,
            rejected: None,
        };
        let limit = asking.deadline.saturating_duration_since(begun);
        let asked = timeout_at(asking.deadline, asking.run()).await;
        asked.unwrap_or(Err(ClientError::Timeout(limit)))
    }
}

impl Asking<'_> {
    async fn run(mut self) -> Result<SealedAnswer, ClientError> {
        loop {
            if let ControlFlow::Break(answer) = self.step().await? {
                return Ok(*answer);
            }
        }
    }

    async fn step(&mut self) -> Result<Step, ClientError> {
        let listing = self.client.listing(self.age).await?;
        self.age = ROSTER_LIFE;
        let mut changes = self.choosing.traffic.changes();
        match self.client.choose(&listing, &self.demand, self.choosing, &self.tried) {
            Ok(Choice::Node(turn, privacy)) => self.ask(&listing, turn, privacy).await,
            Ok(Choice::Full) => {
                // The plan's own requests are in the way, and end some time.
                let _ = changes.changed().await;
                self.waiting = Instant::now();
                Ok(ControlFlow::Continue(()))
            }
            Ok(Choice::Tried) => {
                self.wait(&listing).await?;
                Ok(ControlFlow::Continue(()))
            }
            Err(_) if !self.doubted && listing.since.elapsed() > DOUBTFUL => {
                // Who can answer may have come since.
                self.doubted = true;
                self.age = DOUBTFUL;
                Ok(ControlFlow::Continue(()))
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until another round is worth it: all that may be asked were asked. Those that are
    /// busy are worth waiting for.
    async fn wait(&mut self, listing: &Listing) -> Result<(), ClientError> {
        let Some(advised) = self.wait.take() else {
            if self.lost > 0 && !self.doubted {
                // Whoever could take over may have come since the roster was made.
                self.doubted = true;
                self.age = DOUBTFUL;
                sleep(RENEWED.saturating_sub(listing.since.elapsed())).await;
                return Ok(());
            }
            return Err(self.rejected.take().unwrap_or_else(|| self.unanswered()));
        };
        let mut changes = self.choosing.traffic.changes();
        if self.choosing.traffic.is_going() {
            self.waiting = Instant::now();
        }
        let pause = retry::jittered(advised.clamp(Duration::from_millis(100), LONGEST_WAIT));
        let next = Instant::now() + pause;
        if next > self.waiting + PATIENCE || next > self.deadline {
            let secs = u32::try_from(advised.as_secs().max(1)).unwrap_or(u32::MAX);
            return Err(ClientError::local(TaskError::Busy { retry_after_secs: secs }));
        }
        tokio::select! {
            () = sleep_until(next) => {}
            _ = changes.changed() => {}
        }
        self.tried.clear();
        self.age = Duration::ZERO;
        Ok(())
    }

    /// Seals to the node whose turn it is.
    async fn ask(
        &mut self,
        listing: &Arc<Listing>,
        turn: Turn,
        privacy: Privacy,
    ) -> Result<Step, ClientError> {
        let node = turn.node();
        let Some(certificate) = self.certificate(listing, node).await? else {
            return Ok(ControlFlow::Continue(()));
        };
        let is_alone = turn.is_alone();
        let points = listing.node(&node).map(|node| node.points);
        let taken = |task| {
            let placed = Placed { node: Some(node), task: Some(task), points };
            if let Some(taken) = &self.choosing.taken {
                // Nobody may be listening.
                let _ = taken.unbounded_send((placed, privacy));
            }
        };
        let attempt =
            self.client.attempt(self.question, turn, privacy, &certificate, self.deadline, taken);
        match attempt.await? {
            Attempt::Answered(answer) => {
                self.client.sealed().accepted(node);
                return Ok(ControlFlow::Break(answer));
            }
            Attempt::Busy(advised) => {
                // Nodes that the plan itself keeps busy are no sign of steering.
                if is_alone {
                    self.client.sealed().refused(node, listing)?;
                }
                let advised = advised.unwrap_or(Duration::from_secs(1));
                self.wait = Some(self.wait.map_or(advised, |known| known.min(advised)));
            }
            Attempt::Unable => {
                // The next roster knows where the others are.
                self.age = DOUBTFUL;
            }
            Attempt::Rejected(error) => self.rejected = Some(error),
            Attempt::StaleKey(Some(current)) if !self.keys.contains_key(&node) => {
                // Verified, as every certificate is, before anything is sealed to it.
                self.keys.insert(node, *current);
                return Ok(ControlFlow::Continue(()));
            }
            Attempt::StaleKey(_) => self.age = DOUBTFUL,
            Attempt::Lost => {
                self.lost += 1;
                if self.lost > ALTERNATES {
                    let error = TaskError::NodesFailed { attempts: self.lost };
                    return Err(ClientError::local(error));
                }
            }
        }
        self.tried.push(node);
        Ok(ControlFlow::Continue(()))
    }

    /// Returns the key to seal to; `None` where the next roster must have a newer one.
    async fn certificate(
        &mut self,
        listing: &Listing,
        node: NodeId,
    ) -> Result<Option<VerifiedCertificate>, ClientError> {
        let certificate = match self.keys.get(&node) {
            Some(known) => SignedCertificate::clone(known),
            None => listed_certificate(listing, node)?,
        };
        match self.client.sealed().verify(node, &certificate) {
            Err(error) if error.is_old_serial() && !self.renewed => {
                // A newer key was seen than this list has; the next one must have it.
                self.renewed = true;
                self.age = DOUBTFUL;
                sleep(RENEWED.saturating_sub(listing.since.elapsed())).await;
                Ok(None)
            }
            verified => Ok(Some(verified?)),
        }
    }

    /// Says that all that may be asked were asked, of which so many had taken the request.
    fn unanswered(&self) -> ClientError {
        ClientError::local(match self.lost {
            0 => TaskError::NoNodeOnline { model: self.demand.model.to_string() },
            attempts => TaskError::NodesFailed { attempts },
        })
    }
}

fn listed_certificate(listing: &Listing, node: NodeId) -> Result<SignedCertificate, ClientError> {
    let listed = listing.node(&node).ok_or(TrustError::Roster("a node left it"))?;
    let certificate = SignedCertificate::decode(listed.certificate.as_bytes());
    Ok(certificate.map_err(|cause| TrustError::Certificate { node, cause: Box::new(cause) })?)
}
