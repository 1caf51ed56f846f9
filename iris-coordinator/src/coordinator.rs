use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use iris_core::admission::AdmissionPolicy;
use iris_core::classify::Question;
use iris_core::demand::Difficulty;
use iris_core::ledger::Manual;
use iris_core::plan::PlanRun;
use iris_core::registry::{Node, Registry};
use iris_core::reputation::{MemoryLedger, ReputationLedger};
use iris_core::routing::{Route, Wanted};
use iris_core::scheduler::{Balanced, Scheduler};
use iris_core::standing::StandingPolicy;
use iris_core::store::{Batch, Key, Store, StoreError};
use iris_core::task::{RetryPolicy, TaskError};
use iris_core::tier::TierPolicy;
use iris_core::traffic::OwnerShare;
use iris_core::verify::{Phrases, Stage};
use iris_core::{AccountId, ModelName, NodeId, TaskId, Timestamp};
use iris_crypto::certificate::CertificateHash;
use iris_crypto::{Identity, PublicIdentity, RecordKey, Secret, SignedCertificate};
use iris_protocol::limits::Limits as LinkLimits;
use iris_protocol::openai::{Asked, Preferences};
use iris_protocol::rest;
use iris_protocol::transport::Transport;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::{AccountPolicy, Accounts, ApiKey};
use crate::admittance::Admittance;
use crate::classify::{ClassifierChain, Readers};
use crate::clock::{Clock, SystemClock};
use crate::deeds::Deeds;
use crate::dispatch::{
    Books, Conversation, Dispatch, DispatchSettings, MODEL, ModelRecord, ModelSummary, Parts,
    Payer, ReceiptRecord, SealedTask, Stats, TaskHandle, TaskRequest,
};
use crate::entropy::Entropy;
use crate::history::{self, Histories, HistoryCursor};
use crate::holds::{HoldError, Holds};
use crate::inference::{Inference, PlanHandle};
use crate::journal::{Journal, JournalLimits};
use crate::limits::{Allowance, Exceeded, Limits, PER_MINUTE};
use crate::link::{self, Door, LinkError, NodeLink};
use crate::payouts::{PayPolicy, Payouts};
use crate::promises::{self, Promises};
use crate::ranking::{Rank, Ranking};
use crate::reports::Reports;
use crate::transparency::{StartError, Transparency};
use crate::verify::{Cases, Manner, Sign, Verification};

/// Nodes that one account may bring.
const MOST_NODES: u32 = 1000;
/// How often what changes slowly is written down, and what is too old is deleted.
const HOUSEKEEPING: Duration = Duration::from_mins(1);
/// How often what nodes did is folded for the next start, in minutes.
const DAY: u64 = 24 * 60;
/// How many of such records are written in one commit.
const WRITTEN_TOGETHER: usize = 256;
/// How many receipts are read at a time.
const RECEIPTS_AT_A_TIME: usize = 16;

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

impl Inner {
    /// Writes down what follows from what nodes did, so that the next start is a short one.
    async fn write_deeds(&self) {
        let empty = self.empty.as_ref();
        let empty = empty
            .and_then(|empty| empty.lock().unwrap_or_else(PoisonError::into_inner).resumed(None));
        let Some(empty) = empty else { return };
        let now = self.dispatch.clock.calendar();
        if let Err(error) = Deeds::write(&*self.store, empty, self.standing, now).await {
            tracing::error!(%error, "what nodes did is not folded");
        }
    }
}

/// Puts a coordinator together. Every policy has a default and can be replaced.
pub struct Builder {
    store: Arc<dyn Store>,
    identity: Identity,
    secret: Secret,
    scheduler: Arc<dyn Scheduler>,
    ledger: Box<dyn ReputationLedger>,
    clock: Arc<dyn Clock>,
    tiers: TierPolicy,
    standing: StandingPolicy,
    share: OwnerShare,
    trusted: Vec<AccountId>,
    most_nodes: u32,
    verifying: Manner,
    retry: RetryPolicy,
    limits: LinkLimits,
    per_minute: u32,
    journal: JournalLimits,
    queue_capacity: usize,
    admission: AdmissionPolicy,
    retention: Duration,
    classifiers: ClassifierChain,
    entropy: Entropy,
    accounts: AccountPolicy,
    pay: PayPolicy,
    rail: Arc<dyn iris_core::ledger::Settlement>,
}

impl Builder {
    /// Chooses nodes by `scheduler`. Default: [`Balanced`].
    pub fn with_scheduler(mut self, scheduler: Arc<dyn Scheduler>) -> Self {
        self.scheduler = scheduler;
        self
    }

    /// Counts reputation in `ledger`, which must be empty. Default: a [`MemoryLedger`] that
    /// follows the seeds' table. It is rebuilt from the store whenever a coordinator starts.
    pub fn with_ledger(mut self, ledger: Box<dyn ReputationLedger>) -> Self {
        self.ledger = ledger;
        self
    }

    /// Tells the time by `clock`. Default: the machine's clocks.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Draws the borders between tiers by `policy`.
    pub const fn with_tier_policy(mut self, policy: TierPolicy) -> Self {
        self.tiers = policy;
        self
    }

    /// Weighs what nodes do by `policy`, which makes their standing.
    pub const fn with_standing_policy(mut self, policy: StandingPolicy) -> Self {
        self.standing = policy;
        self
    }

    /// Lets no owner of nodes have more than `share` of a model's work while others could do it.
    /// Default: a fifth, or twice an equal part where fewer than ten owners offer the model.
    pub const fn with_share(mut self, share: OwnerShare) -> Self {
        self.share = share;
        self
    }

    /// Counts all nodes of `owners` as trusted, for requests that ask for it, and has those that
    /// score texts say whether others run the models that they offer. Default: nobody's, so that
    /// nothing is verified.
    pub fn with_trusted_owners(mut self, owners: impl IntoIterator<Item = AccountId>) -> Self {
        self.trusted.extend(owners);
        self
    }

    /// Lets one account bring at most so many nodes; a node stays its account's for good, whether it
    /// ever comes again or not. Default: 1,000, a hundredth of what the checks of nodes keep in mind.
    pub const fn with_most_nodes_of_one(mut self, most: u32) -> Self {
        self.most_nodes = most;
        self
    }

    /// Makes the prompts of checks from `phrases`. Default: the built-in ones, which a node can know,
    /// since everybody can read them.
    pub fn with_phrases(mut self, phrases: Phrases) -> Self {
        self.verifying.phrases = phrases;
        self
    }

    /// Lets chats at temperature zero that the coordinator can read, and whose callers name no nodes,
    /// be given to a node of a second owner, and where its answer differs to a trusted owner's.
    /// Default: no, so that no more than one owner reads them.
    pub const fn with_comparisons(mut self, compares: bool) -> Self {
        self.verifying.compares = compares;
        self
    }

    /// Looks every `tick` for checks that are due, and sends each within `within` after that, at a
    /// moment that nothing foretells. Default: a minute, and two and a half; less is for tests whose
    /// calendar runs ahead.
    pub const fn with_check_times(mut self, tick: Duration, within: Duration) -> Self {
        (self.verifying.tick, self.verifying.within) = (tick, within);
        self
    }

    /// Retries and times nodes by `policy`.
    pub const fn with_retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Holds connections to nodes to `limits`.
    pub const fn with_link_limits(mut self, limits: LinkLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Writes the books within `limits`. While its queue is more than half full, no work begins.
    pub const fn with_journal_limits(mut self, limits: JournalLimits) -> Self {
        self.journal = limits;
        self
    }

    /// Lets at most `capacity` tasks wait for a node; further ones are told to come back.
    /// Default: 1024.
    pub const fn with_queue_capacity(mut self, capacity: usize) -> Self {
        self.queue_capacity = capacity;
        self
    }

    /// Lets an interactive task wait at most `wait` for a node. Default: 10 s.
    pub const fn with_max_wait(mut self, wait: Duration) -> Self {
        self.admission.longest = wait;
        self
    }

    /// Lets an interactive task wait only if its turn is expected within `times` times what a
    /// task of its model usually takes; whoever would wait longer is told at once when to come
    /// back. Default: 2. More make the line longer, and nothing faster.
    pub const fn with_patience(mut self, times: u32) -> Self {
        self.admission.patience = times;
        self
    }

    /// Opens accounts and takes members by `policy`. Default: no fee, and operators invite alone.
    pub fn with_account_policy(mut self, policy: AccountPolicy) -> Self {
        self.accounts = policy;
        self
    }

    /// Shares what members pay by `policy`. Default: by evidence.
    pub fn with_pay_policy(mut self, policy: PayPolicy) -> Self {
        self.pay = policy;
        self
    }

    /// Takes money in and pays it out by `rail`. Default: [`Manual`], which leaves it to a person.
    pub fn with_settlement(mut self, rail: Arc<dyn iris_core::ledger::Settlement>) -> Self {
        self.rail = rail;
        self
    }

    /// Asks `classifiers` how hard a question is whose caller names no model. Default: the rules
    /// alone, which tell nobody what is asked.
    pub fn with_classifiers(mut self, classifiers: ClassifierChain) -> Self {
        self.classifiers = classifiers;
        self
    }

    /// Lets each account make `requests` to models in a minute, evenly and with as many at once; 0
    /// for any number. Default: 600.
    pub const fn with_rate_per_minute(mut self, requests: u32) -> Self {
        self.per_minute = requests;
        self
    }

    /// Keeps the results of durable tasks for `retention`. Default: 24 hours.
    pub const fn with_retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Draws the ids of tasks and the scheduler's seeds from `seed`. Default: from the operating
    /// system. What others can foresee they can ask for, so this is for simulations alone.
    #[cfg(feature = "simulation")]
    pub fn with_seed(mut self, seed: u64) -> Self {
        let dice = crate::simulation::Dice::new(seed);
        self.entropy = Entropy::Seeded(std::sync::Mutex::new(dice));
        self
    }

    /// Returns what connections to nodes are held to.
    #[cfg(feature = "simulation")]
    pub(crate) const fn link_limits(&self) -> LinkLimits {
        self.limits
    }

    /// Reads what the store holds, resumes durable tasks and starts the coordinator.
    ///
    /// Fails where the store holds the public log of another identity. Must be called within a
    /// tokio runtime, whose tasks it uses from then on.
    pub async fn build(self) -> Result<Coordinator, StartError> {
        let (rules, settings) = (self.rules(), self.dispatching());
        let identity = Arc::new(self.identity);
        let journal = Journal::start(Arc::clone(&self.store), self.journal);
        let (ledger, policy) = (self.ledger, self.standing);
        let empty = ledger.resumed(None);
        let deeds = Deeds::read(&*self.store, ledger, policy, self.clock.calendar()).await?;
        let verifies = !self.trusted.is_empty();
        let registry = Registry::with_tier_policy(self.tiers)
            .with_share(self.share)
            .with_trusted_owners(self.trusted);
        let limits = Limits::load(&*self.store, Arc::clone(&self.clock), self.per_minute).await?;
        let since = self.clock.calendar();
        let secret = self.secret.clone();
        let accounts = Accounts::load_with(Arc::clone(&self.store), secret, self.accounts).await?;
        let accounts = Arc::new(accounts.with_clock(Arc::clone(&self.clock)));
        let dispatch = Arc::new(Dispatch::new(Parts {
            admittance: Admittance::load(&self.store, &self.clock, &self.secret).await?,
            clock: self.clock,
            scheduler: self.scheduler,
            ledger: deeds.points,
            registry,
            standings: deeds.standings,
            journal,
            histories: Histories::open(&*self.store).await?,
            settings,
            entropy: self.entropy,
            limits: Arc::new(limits),
            members: Arc::clone(&accounts),
            promises: Promises::load(&*self.store).await?,
            holds: Holds::load(Arc::clone(&self.store)).await?,
        }));
        dispatch.admittance.heed(&dispatch);
        dispatch.restore_models(load_models(&*self.store).await?);
        let classifiers = self.classifiers.over(&dispatch);
        let transparency = Transparency::open(
            Arc::clone(&dispatch),
            Arc::clone(&self.store),
            Arc::clone(&identity),
            &self.secret,
        );
        let transparency = Arc::new(transparency.await?);
        let (housekeeping, store) = (CancellationToken::new(), Arc::clone(&self.store));
        let door = Door::new(
            Arc::clone(&dispatch),
            Arc::clone(&self.store),
            link::Owned::load(&*self.store).await?,
            Arc::clone(&identity),
            self.limits,
            self.most_nodes,
        );
        let payouts = Payouts::new(
            Arc::clone(&self.store),
            &self.secret,
            self.pay,
            self.rail,
            Arc::clone(&dispatch.clock),
        );
        payouts.declare().await?;
        let tasks = TaskTracker::new();
        let cases = Cases::load(
            Arc::clone(&self.store),
            Arc::clone(&dispatch),
            RecordKey::new(&self.secret),
            Manner { verifies, ..self.verifying },
            tasks.clone(),
        );
        let cases = cases.await?;
        let inference = Inference::new(
            Arc::clone(&dispatch),
            Arc::clone(&self.store),
            RecordKey::new(&self.secret),
            self.retention,
            tasks.clone(),
        );
        inference.resume().await?;
        let inner = Inner {
            reports: Reports::new(Arc::clone(&store), Arc::clone(&dispatch.clock), &self.secret),
            identity,
            dispatch,
            door,
            accounts,
            inference,
            transparency,
            payouts,
            cases,
            classifiers,
            tasks,
            housekeeping,
            store,
            since,
            ranking: Ranking::default(),
            empty: empty.map(Mutex::new),
            standing: policy,
            rules,
        };
        let coordinator = Coordinator { inner: Arc::new(inner) };
        coordinator.begin_housekeeping();
        Ok(coordinator)
    }

    const fn dispatching(&self) -> DispatchSettings {
        let (retry, queue_capacity, admission) = (self.retry, self.queue_capacity, self.admission);
        DispatchSettings { retry, queue_capacity, admission }
    }

    /// Returns the rules that follow from what was set here.
    fn rules(&self) -> rest::Policies {
        let hedge = self.retry.hedge.map(|hedge| hedge.after.as_millis());
        rest::Policies {
            trusted_owners: self.trusted.clone(),
            compare_answers: self.verifying.compares,
            owner_share_percent: self.share.as_percent(),
            rate_per_minute: self.per_minute,
            queue_capacity: self.queue_capacity as u64,
            max_wait_secs: self.admission.longest.as_secs(),
            patience: self.admission.patience,
            hedge_after_ms: hedge.and_then(|millis| millis.try_into().ok()),
            retention_secs: self.retention.as_secs(),
            ..rest::Policies::default()
        }
    }
}

impl Coordinator {
    fn begin_housekeeping(&self) {
        let (inner, stop) = (&self.inner, &self.inner.housekeeping);
        let dispatch = || Arc::downgrade(&inner.dispatch);
        tokio::spawn(keep_house(Arc::downgrade(inner), stop.clone()));
        tokio::spawn(promises::watch(dispatch(), stop.clone()));
        tokio::spawn(fold_histories(dispatch(), inner.dispatch.histories.many(), stop.clone()));
    }

    /// Begins a coordinator that keeps its records in `store` and proves itself to nodes by
    /// `identity`.
    ///
    /// `secret` protects what the store holds: account keys are hashed with it and prompts of
    /// durable tasks sealed. It belongs beside the store and outside of it, and without it
    /// neither can be used again.
    pub fn builder(store: Arc<dyn Store>, identity: Identity, secret: Secret) -> Builder {
        Builder {
            store,
            identity,
            secret,
            scheduler: Arc::new(Balanced),
            ledger: Box::new(MemoryLedger::default()),
            clock: Arc::new(SystemClock),
            tiers: TierPolicy::default(),
            standing: StandingPolicy::default(),
            share: OwnerShare::default(),
            trusted: Vec::new(),
            most_nodes: MOST_NODES,
            verifying: Manner::default(),
            retry: RetryPolicy::default(),
            limits: LinkLimits::default(),
            per_minute: PER_MINUTE,
            journal: JournalLimits::default(),
            queue_capacity: 1024,
            admission: AdmissionPolicy::default(),
            retention: Duration::from_hours(24),
            classifiers: ClassifierChain::default(),
            entropy: Entropy::System,
            accounts: AccountPolicy::default(),
            pay: PayPolicy::default(),
            rail: Arc::new(Manual),
        }
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

    /// Returns how far a node has come in showing that it runs a model that it offers.
    pub fn stage(&self, node: &NodeId, model: &ModelName) -> Stage {
        let verification = self.inner.cases.verification();
        verification.map_or(Stage::Probation, |verification| verification.stage(node, model))
    }

    /// Returns the models that some node offers now, in the order of their names.
    pub fn models(&self) -> Vec<ModelSummary> {
        self.inner.dispatch.models()
    }

    /// Returns the connected nodes, in the order of their ids.
    pub fn nodes(&self) -> Vec<rest::NodeSummary> {
        self.inner.dispatch.nodes(summarise)
    }

    /// Says why a node has the work that it has and what would bring it more; `None` where it
    /// never was part of the network.
    pub async fn why(&self, node: &NodeId) -> Result<Option<rest::NodeWhy>, StoreError> {
        if let Some(why) = self.why_here(node) {
            return Ok(Some(why));
        }
        let known = link::is_known(&*self.inner.store, node).await?;
        Ok(known.then(|| self.why_away(*node)))
    }

    /// Returns at most `limit` nodes of `account`, connected or not, in the order of their ids,
    /// beginning after `after`.
    pub fn nodes_of(
        &self,
        account: &AccountId,
        after: Option<&NodeId>,
        limit: usize,
    ) -> Vec<rest::OwnNode> {
        let dispatch = &self.inner.dispatch;
        let nodes = self.inner.door.owned().of(account, after, limit).into_iter();
        nodes
            .map(|(id, first_seen)| {
                let (points, standing) = dispatch.record_of(&id);
                rest::OwnNode {
                    first_seen: first_seen.as_secs(),
                    points: points.value(),
                    standing: standing.mean(),
                    node: dispatch.show_node(&id, summarise),
                    why: self.why_here(&id).unwrap_or_else(|| self.why_away(id)),
                }
            })
            .collect()
    }

    /// Says of a connected node why it has the work that it has, and what of that is not paid.
    fn why_here(&self, node: &NodeId) -> Option<rest::NodeWhy> {
        let mut why = self.inner.dispatch.why(node)?;
        why.hindrances.extend(self.probation(node));
        let lapses = self.inner.cases.verification().filter(|verification| verification.checks());
        let lapses = lapses.map_or(Vec::new(), |verification| verification.lapses(node));
        let offered = self.inner.dispatch.models_of(node);
        let lapses = lapses.iter().filter(|(model, _)| offered.contains(model));
        let unpaid = lapses.map(|(model, lapse)| Dispatch::why_unpaid(model, *lapse));
        why.hindrances.extend(unpaid);
        Some(why)
    }

    fn why_away(&self, node: NodeId) -> rest::NodeWhy {
        let promise = self.inner.dispatch.promises.of(&node);
        rest::NodeWhy { promise, ..self.inner.dispatch.why_away(node) }
    }

    /// Returns whether a node is an account's, connected or not.
    pub fn owns(&self, account: &AccountId, node: &NodeId) -> bool {
        self.inner.door.owned().has(account, node)
    }

    /// Says of a node that is not paid yet that it is not; `None` where nothing is verified.
    fn probation(&self, node: &NodeId) -> Option<rest::Hindrance> {
        self.inner.cases.checks().then_some(())?;
        let models = self.inner.dispatch.models_of(node);
        let is_paid = |model: &ModelName| self.stage(node, model).is_paid();
        (!models.iter().any(is_paid)).then(|| rest::Hindrance {
            code: "probation".to_owned(),
            text: "It is on probation: what it does is not paid yet.".to_owned(),
            remedy: "Probation with a model ends once it has passed fifty tests with it in seven \
                     days, which come by themselves where a trusted node offers one of its models."
                .to_owned(),
        })
    }

    /// Holds a node, until it is released: a drained one finishes what it has and gets nothing new,
    /// a blocked one is sent away at once and not let in. Its owner reads why.
    pub async fn hold(
        &self,
        node: NodeId,
        request: rest::HoldRequest,
    ) -> Result<rest::NodeHold, HoldError> {
        if !link::is_known(&*self.inner.store, &node).await? {
            return Err(HoldError::NoNode);
        }
        let dispatch = &self.inner.dispatch;
        let hold = dispatch.holds.hold(node, request, dispatch.clock.calendar()).await?;
        dispatch.carry_out_hold(&node);
        Ok(hold)
    }

    /// Lets a node work that was held; returns whether it was. A blocked one comes back when its
    /// owner starts it.
    pub async fn release(&self, node: &NodeId) -> Result<bool, HoldError> {
        let dispatch = &self.inner.dispatch;
        let released = dispatch.holds.release(node).await?;
        dispatch.carry_out_hold(node);
        Ok(released)
    }

    /// Returns the nodes that are held, in the order of their ids.
    pub fn holds(&self) -> Vec<rest::NodeHold> {
        self.inner.dispatch.holds.all()
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

    /// Returns at most `limit` connected nodes, in the order of their ids, beginning after `after`.
    pub fn nodes_after(&self, after: Option<&NodeId>, limit: usize) -> Vec<rest::NodeSummary> {
        self.inner.dispatch.nodes_after(after, limit, summarise)
    }

    /// Returns at most `limit` nodes of the ranking by points, beginning after `after`. It is made
    /// anew every ten seconds.
    pub async fn ranking(&self, after: Option<&Rank>, limit: usize) -> rest::ReputationPage {
        self.inner.ranking.page(&self.inner.dispatch, after, limit).await
    }

    /// Returns at most `limit` tasks of `account` that are over, the latest first, beginning after
    /// `after`.
    pub async fn history(
        &self,
        account: &AccountId,
        after: Option<&HistoryCursor>,
        limit: usize,
    ) -> Result<rest::HistoryPage, StoreError> {
        let histories = &self.inner.dispatch.histories;
        history::page(&*self.inner.store, histories, account, after, limit).await
    }

    /// Returns the nodes' receipts for those tasks of `account` that [`history`](Self::history)
    /// returns for the same page: sealed ones have receipts, as far as their nodes gave them.
    pub async fn receipts(
        &self,
        account: &AccountId,
        after: Option<&HistoryCursor>,
        limit: usize,
    ) -> Result<rest::ReceiptPage, StoreError> {
        let store = &*self.inner.store;
        let page = self.history(account, after, limit).await?;
        let sealed = page.tasks.into_iter().filter(|task| task.sealed);
        let receipts = futures::stream::iter(sealed)
            .map(|task| ReceiptRecord::of(store, task.task))
            .buffered(RECEIPTS_AT_A_TIME)
            .try_filter_map(|receipt| async move { Ok(receipt) });
        Ok(rest::ReceiptPage { receipts: receipts.try_collect().await?, next: page.next })
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

    /// Returns the reputation of a node that is connected, in points.
    pub fn points_of(&self, node: &NodeId) -> Option<i64> {
        self.inner.dispatch.points_of(node)
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

fn summarise(node: &Node, link: Option<&NodeLink>) -> rest::NodeSummary {
    let profile = node.profile();
    let tier = node.tiers().map(|(_, tier)| tier).max().unwrap_or_default();
    rest::NodeSummary {
        id: profile.id,
        name: (!profile.name.is_empty()).then(|| profile.name.clone()),
        tier: tier.to_string(),
        points: node.points().value(),
        standing: node.standing().mean(),
        models: profile.models.clone(),
        datasets: profile.datasets.clone(),
        slots: profile.slots,
        running: node.in_use(),
        hours: profile.terms.hours.as_deref().cloned(),
        callers: profile.terms.callers,
        connected: link.map_or(0, |link| link.connected.as_secs()),
        version: link.map(|link| link.agent_version.clone()).unwrap_or_default(),
    }
}

async fn load_models(store: &dyn Store) -> Result<Vec<ModelRecord>, StoreError> {
    let records = store.scan(Key::all(MODEL));
    records.and_then(|record| async move { record.value.decode() }).try_collect().await
}

/// Writes and deletes what is due, for as long as the coordinator lives.
async fn keep_house(coordinator: Weak<Inner>, stop: CancellationToken) {
    for minute in 1_u64.. {
        if stop.run_until_cancelled(tokio::time::sleep(HOUSEKEEPING)).await.is_none() {
            return;
        }
        let Some(inner) = coordinator.upgrade() else { return };
        inner.dispatch.keep_models(false);
        inner.dispatch.keep_promises();
        inner.cases.carry_out_all().await;
        inner.dispatch.end_minute();
        if minute.is_multiple_of(60) {
            inner.dispatch.refresh_standings();
        }
        if minute.is_multiple_of(DAY) {
            inner.write_deeds().await;
        }
        if minute % 60 == 1 {
            inner.cases.keep_house().await;
            inner.payouts.keep_house(&inner.accounts).await;
        }
        inner.dispatch.keep_usage().await;
        inner.inference.sweep().await;
        inner.accounts.keep_house().await;
    }
}

/// Writes the lines of histories whenever many have gathered, and now and then.
async fn fold_histories(dispatch: Weak<Dispatch>, many: Arc<Notify>, stop: CancellationToken) {
    loop {
        let gathered = tokio::time::timeout(HOUSEKEEPING, many.notified());
        if stop.run_until_cancelled(gathered).await.is_none() {
            return;
        }
        let Some(dispatch) = dispatch.upgrade() else { return };
        dispatch.fold_histories().await;
    }
}

impl Dispatch {
    async fn fold_histories(&self) {
        if let Err(error) = self.histories.fold(&self.journal).await {
            tracing::error!(%error, "lines of histories are not written yet");
        }
    }

    /// Ends a minute of the figures that are shown over time.
    fn end_minute(&self) {
        let Stats { finished, failed, expired, completion_tokens, .. } = self.counters.stats();
        let counts = (finished, failed + expired, completion_tokens);
        let at = self.clock.calendar().as_secs();
        self.live.minutes().end(at, counts, &self.counters.took);
    }

    /// Writes down what keys have used.
    async fn keep_usage(&self) {
        for writes in self.limits.keep().writes.chunks(WRITTEN_TOGETHER) {
            let batch = Batch { writes: writes.to_vec() };
            if let Err(error) = self.journal.record_when_free(batch).await {
                tracing::error!(%error, "what keys have used was not written down");
            }
        }
    }
}
