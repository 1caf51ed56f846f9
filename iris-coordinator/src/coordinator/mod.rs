//! A coordinator and all that it is asked for.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iris_core::classify::Question;
use iris_core::demand::Difficulty;
use iris_core::plan::PlanRun;
use iris_core::reputation::ReputationLedger;
use iris_core::routing::{Route, Wanted};
use iris_core::standing::StandingPolicy;
use iris_core::store::{Key, Store};
use iris_core::task::TaskError;
use iris_core::{AccountId, ModelName, NodeId, TaskId, Timestamp};
use iris_crypto::certificate::CertificateHash;
use iris_crypto::{Identity, PublicIdentity, Secret, SignedCertificate};
use iris_protocol::openai::{Asked, Preferences};
use iris_protocol::rest;
use iris_protocol::transport::Transport;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::{Accounts, ApiKey};
use crate::admittance::Admittance;
use crate::classify::{ClassifierChain, Readers};
#[cfg(feature = "http")]
use crate::clock::Clock;
use crate::dispatch::{
    Books, Conversation, Dispatch, MODEL, ModelSummary, Payer, SealedTask, Stats, TaskHandle,
    TaskRequest,
};
use crate::inference::{Inference, PlanHandle};
#[cfg(feature = "http")]
use crate::limits::Limits;
use crate::limits::{Allowance, Exceeded};
use crate::link::{Door, LinkError};
use crate::payouts::Payouts;
use crate::ranking::Ranking;
use crate::reports::Reports;
use crate::transparency::Transparency;
use crate::verify::{Cases, Sign, Verification};

mod builder;
mod history;
mod housekeeping;
mod nodes;

pub use builder::Builder;

/// The coordinator of a network; cloning shares it.
#[derive(Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Arc<Identity>,
    dispatch: Arc<Dispatch>,
    door: Door,
    accounts: Arc<Accounts>,
    inference: Inference,
    transparency: Arc<Transparency>,
    payouts: Payouts,
    cases: Cases,
    reports: Reports,
    classifiers: ClassifierChain,
    tasks: TaskTracker,
    housekeeping: CancellationToken,
    store: Arc<dyn Store>,
    since: Timestamp,
    ranking: Ranking,
    /// A ledger of no deeds, where such ledgers can be gone on from.
    empty: Option<Mutex<Box<dyn ReputationLedger>>>,
    standing: StandingPolicy,
    rules: rest::Policies,
}

impl Coordinator {
    /// Begins a coordinator that keeps its records in `store` and proves itself to nodes by
    /// `identity`.
    ///
    /// `secret` protects what the store holds: account keys are hashed with it and prompts of
    /// durable tasks sealed. It belongs beside the store and outside of it, and without it
    /// neither can be used again.
    pub fn builder(store: Arc<dyn Store>, identity: Identity, secret: Secret) -> Builder {
        Builder::new(store, identity, secret)
    }

    /// Returns who the coordinator is to its nodes.
    pub fn identity(&self) -> PublicIdentity {
        self.inner.identity.public()
    }

    /// Draws an id for a new task.
    pub fn new_task_id(&self) -> TaskId {
        self.inner.dispatch.entropy.task_id()
    }

    /// Starts a task. Its work is driven by reading the handle's events; dropping the handle
    /// cancels it.
    pub fn submit(&self, request: TaskRequest) -> TaskHandle {
        TaskHandle::new(Arc::clone(&self.inner.dispatch), request, Books::Journal)
    }

    /// Starts a divided task for somebody who waits for it: `task` names it, and each of its steps
    /// is a task of its own. It is driven by reading the handle; dropping that gives it up.
    pub fn submit_plan(
        &self,
        task: TaskId,
        payer: impl Into<Payer>,
        run: PlanRun,
        wishes: Preferences,
    ) -> PlanHandle {
        self.inner.inference.pass(task, payer.into(), run, wishes)
    }

    /// Starts a task that its caller sealed to one node; see [`submit`](Self::submit).
    ///
    /// That node is asked once. Nothing of the request or the answer is kept, but the node's
    /// receipt, when the answer has one.
    pub fn submit_sealed(&self, task: SealedTask) -> TaskHandle {
        TaskHandle::sealed(Arc::clone(&self.inner.dispatch), task, Books::Journal)
    }

    /// Says how hard a question is, as far as its `readers` may help with that.
    pub async fn classify(&self, question: &Question, readers: Readers) -> Difficulty {
        self.inner.classifiers.classify(question, readers).await
    }

    /// Chooses the model for a task whose caller names none, among those that it `may` ask.
    pub fn route(
        &self,
        wanted: &Wanted,
        may: impl Fn(&ModelName) -> bool,
    ) -> Result<Route, TaskError> {
        self.inner.dispatch.route(wanted, may)
    }

    /// Returns the current certificate of the node that has, or had, the one with this hash.
    pub fn certificate_for(&self, hash: &CertificateHash) -> Option<SignedCertificate> {
        self.inner.dispatch.certificate_for(hash)
    }

    /// Lets the node at the other end of `transport` in for `owner`, whose key it came with.
    ///
    /// Resolves once the node has registered, when its connection lives on in a task of its own,
    /// or when it was turned away.
    pub async fn serve_node(
        &self,
        transport: impl Transport + 'static,
        owner: AccountId,
    ) -> Result<NodeId, LinkError> {
        self.inner.door.admit(Box::pin(transport), owner).await
    }

    /// Returns whether an account has not paid its fee, so that its own nodes alone serve it.
    #[cfg(feature = "http")]
    pub(crate) fn is_lapsed(&self, account: &AccountId) -> bool {
        self.inner.dispatch.is_lapsed(account)
    }

    /// Returns the accounts and their keys.
    pub fn accounts(&self) -> &Accounts {
        &self.inner.accounts
    }

    /// Returns the durable tasks.
    pub fn inference(&self) -> &Inference {
        &self.inner.inference
    }

    /// Returns the published roster and the public log.
    pub fn transparency(&self) -> &Arc<Transparency> {
        &self.inner.transparency
    }

    /// Returns the network's money.
    pub fn payouts(&self) -> &Payouts {
        &self.inner.payouts
    }

    /// Returns what was odd about nodes of late, the latest last: for a person to look at, and the
    /// reason for nothing. Empty where nothing is verified.
    pub fn signs(&self) -> Vec<Sign> {
        self.inner.cases.verification().map(Verification::signs).unwrap_or_default()
    }

    /// Sets how long callers' requests may take, where that is not ten minutes: checks look like
    /// them.
    pub fn set_usual_time_limit(&self, limit: Duration) {
        if let Some(verification) = self.inner.cases.verification() {
            verification.set_time_limit(limit);
        }
    }

    /// Returns the verdicts on nodes, and what became of them.
    pub fn cases(&self) -> &Cases {
        &self.inner.cases
    }

    /// Returns whom owners let their nodes answer.
    pub fn admittance(&self) -> &Admittance {
        &self.inner.dispatch.admittance
    }

    /// Returns what owners report.
    pub fn reports(&self) -> &Reports {
        &self.inner.reports
    }

    /// Returns the models that some node offers now, in the order of their names.
    pub fn models(&self) -> Vec<ModelSummary> {
        self.inner.dispatch.models()
    }

    /// Returns the rules that the coordinator was built with; those of accounts and of pay are
    /// theirs to tell.
    pub fn rules(&self) -> rest::Policies {
        self.inner.rules.clone()
    }

    /// Names the conversation that `account` goes on with in a chat, for
    /// [`Placement::conversation`](crate::Placement::conversation). `body` is what was `asked`,
    /// as it came.
    pub fn conversation(
        &self,
        account: AccountId,
        body: &[u8],
        asked: &Asked,
    ) -> Option<Conversation> {
        self.inner.dispatch.conversation(account, body, asked.turns.as_ref())
    }

    /// Counts a request of `account` that came with `key`, or says which limit it reached: its
    /// account's pace, or what its key is held to. The HTTP server asks this for each request to a
    /// model; whoever takes requests in otherwise asks it too. Waits for nothing.
    pub fn admit(&self, account: &AccountId, key: Option<&ApiKey>) -> Result<Allowance, Exceeded> {
        self.inner.dispatch.limits.admit(account, key)
    }

    /// Returns what was used of a key's quota, by the key's [`meter`](crate::ApiKey::meter).
    pub fn usage_of(&self, meter: &rest::KeyId) -> rest::QuotaUse {
        self.inner.dispatch.limits.used(meter)
    }

    /// Returns since when the coordinator is at work.
    pub fn since(&self) -> Timestamp {
        self.inner.since
    }

    #[cfg(feature = "http")]
    pub(crate) fn dispatch(&self) -> &Arc<Dispatch> {
        &self.inner.dispatch
    }

    #[cfg(feature = "http")]
    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.dispatch.limits
    }

    #[cfg(feature = "http")]
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.inner.dispatch.clock)
    }

    /// Returns why a recent task of `account` went where it went.
    pub fn explanation(&self, task: &TaskId, account: &AccountId) -> Option<rest::Explanation> {
        rest::Explanation::new(*task, &self.inner.dispatch.explanations(task, account))
    }

    /// Returns what was counted and what is held now.
    pub fn stats(&self) -> Stats {
        let dispatch = &self.inner.dispatch;
        let nodes = dispatch.nodes(|node, _| (node.profile().slots, node.in_use()));
        Stats {
            nodes: nodes.len(),
            slots: nodes.iter().map(|(slots, _)| u64::from(*slots)).sum(),
            slots_in_use: nodes.iter().map(|(_, in_use)| u64::from(*in_use)).sum(),
            queued: dispatch.queued(),
            rows: dispatch.journal.stats().rows(),
            commits: dispatch.journal.stats().commits(),
            ..dispatch.counters.stats()
        }
    }

    /// Returns whether the store answers, and took what was last written to it.
    pub async fn is_ready(&self) -> bool {
        if self.inner.dispatch.journal.is_away() {
            return false;
        }
        let key = Key::new(MODEL, "-").expect("a dash is a key segment");
        self.inner.store.get(key).await.is_ok()
    }

    /// Tells the nodes and takes no new task.
    ///
    /// Running tasks go on; what drives them, such as a server, ends them first.
    pub fn begin_shutdown(&self) {
        self.inner.dispatch.begin_drain();
        for link in self.inner.dispatch.links() {
            link.drain();
        }
    }

    /// Leaves durable tasks to the next start, writes everything down and lets the nodes go.
    ///
    /// Drop every [`TaskHandle`] before: the books take nothing after this.
    pub async fn shutdown(&self) {
        self.begin_shutdown();
        self.inner.inference.suspend();
        if let Some(verification) = self.inner.cases.verification() {
            verification.suspend();
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.housekeeping.cancel();
        self.inner.dispatch.keep_models(true);
        self.inner.dispatch.keep_promises();
        self.inner.accounts.keep_house().await;
        self.inner.dispatch.keep_usage().await;
        self.inner.dispatch.fold_histories().await;
        if let Err(lost) = self.inner.dispatch.journal.shutdown().await {
            tracing::error!(rows = lost.rows, "records could not be written before the end");
        }
        for link in self.inner.dispatch.links() {
            link.close();
        }
    }
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").field("identity", &self.identity()).finish_non_exhaustive()
    }
}
