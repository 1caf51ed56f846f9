//! What a coordinator is put together from.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use iris_core::AccountId;
use iris_core::admission::AdmissionPolicy;
use iris_core::ledger::Manual;
use iris_core::registry::Registry;
use iris_core::reputation::{MemoryLedger, ReputationLedger};
use iris_core::scheduler::{Balanced, Scheduler};
use iris_core::standing::StandingPolicy;
use iris_core::store::{Key, Store, StoreError};
use iris_core::task::RetryPolicy;
use iris_core::tier::TierPolicy;
use iris_core::traffic::OwnerShare;
use iris_core::verify::Phrases;
use iris_crypto::{Identity, RecordKey, Secret};
use iris_protocol::limits::Limits as LinkLimits;
use iris_protocol::rest;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Coordinator, Inner};
use crate::accounts::{AccountPolicy, Accounts};
use crate::admittance::Admittance;
use crate::classify::ClassifierChain;
use crate::clock::{Clock, SystemClock};
use crate::deeds::Deeds;
use crate::dispatch::{Dispatch, DispatchSettings, MODEL, ModelRecord, Parts};
use crate::entropy::Entropy;
use crate::history::Histories;
use crate::holds::Holds;
use crate::inference::Inference;
use crate::journal::{Journal, JournalLimits};
use crate::limits::{Limits, PER_MINUTE};
use crate::link::{self, Door};
use crate::payouts::{PayPolicy, Payouts};
use crate::promises::Promises;
use crate::ranking::Ranking;
use crate::reports::Reports;
use crate::transparency::{StartError, Transparency};
use crate::verify::{Cases, Manner};

/// Nodes that one account may bring.
const MOST_NODES: u32 = 1000;

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
    /// Begins with the default of every policy.
    pub(super) fn new(store: Arc<dyn Store>, identity: Identity, secret: Secret) -> Self {
        Self {
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

async fn load_models(store: &dyn Store) -> Result<Vec<ModelRecord>, StoreError> {
    let records = store.scan(Key::all(MODEL));
    records.and_then(|record| async move { record.value.decode() }).try_collect().await
}
