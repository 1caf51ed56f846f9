use std::sync::Mutex;
use std::time::Instant;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use iris_core::backend::Usage;
use iris_core::ledger::{Manual, Payout, PayoutState, SettlementError};
use iris_core::reward::audit::{Audit, Line};
use iris_core::reward::{EvidencePolicy, EvidenceRules, RewardEvent, What};
use iris_core::store::{MemoryStore, Record};
use iris_core::task::{Attempt, AttemptEnd, TaskState};
use iris_core::{NodeId, TaskId};
use serde_json::json;

use super::*;

/// A clock that a test sets.
#[derive(Debug)]
struct Calendar(Mutex<Timestamp>);

impl Clock for Calendar {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn calendar(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// A store that refuses or forgets to answer commits, as a crash does.
#[derive(Debug, Default)]
struct Shaky {
    inner: MemoryStore,
    /// Commits from now on that fail before they happen, or after.
    faults: Mutex<Vec<Fault>>,
    /// The times from which events were read.
    scanned_from: Mutex<Vec<u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Before,
    After,
}

impl Store for Shaky {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let fault = self.faults.lock().unwrap().pop().unwrap_or(Fault::None);
            let crash = || Err(StoreError::Unavailable("it crashed".into()));
            if fault == Fault::Before {
                return crash();
            }
            self.inner.commit(batch).await?;
            if fault == Fault::After { crash() } else { Ok(()) }
        })
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.inner.get(key)
    }

    fn scan(&self, range: std::ops::Range<Key>) -> BoxStream<'_, Result<Record, StoreError>> {
        if let Some(from) = range.start.as_str().strip_prefix("event/") {
            let from = from.parse().unwrap_or_default();
            self.scanned_from.lock().unwrap().push(from);
        }
        self.inner.scan(range)
    }
}

/// Pays everything at once, each payout once.
#[derive(Debug, Default)]
struct Bank {
    paid: Mutex<Vec<Payout>>,
}

impl Settlement for Bank {
    fn name(&self) -> &'static str {
        "bank"
    }

    fn pay_out(&self, payout: Payout) -> BoxFuture<'_, Result<PayoutState, SettlementError>> {
        Box::pin(async move {
            let mut paid = self.paid.lock().unwrap();
            if !paid.contains(&payout) {
                paid.push(payout);
            }
            Ok(PayoutState::Paid { reference: payout.id() })
        })
    }
}

struct Network {
    store: Arc<Shaky>,
    clock: Arc<Calendar>,
    payouts: Payouts,
    tasks: u8,
}

fn epoch() -> Epoch {
    "2026-11".parse().unwrap()
}

fn account(number: u8) -> AccountId {
    AccountId::from_bytes([number; 16])
}

fn node(number: u8) -> NodeId {
    char::from(b'a' + number).to_string().repeat(26).parse().unwrap()
}

/// The moment `day` days after the month's start.
fn day(day: u64) -> Timestamp {
    Timestamp::from_millis(epoch().start().as_millis() + day * 86_400_000)
}

impl Network {
    /// Nodes 1 and 2 belong to the accounts of the same numbers.
    async fn new(policy: PayPolicy, rail: Arc<dyn Settlement>) -> Self {
        let store = Arc::new(Shaky::default());
        let clock = Arc::new(Calendar(Mutex::new(day(0))));
        let payouts = payouts_of(&store, &clock, policy, rail);
        for owner in [1, 2] {
            let key = Key::new("node", node(owner)).unwrap();
            let bound = json!({ "owner": account(owner), "first_seen": day(0) });
            let batch = Batch::new().put(key, Document::encode(&bound));
            store.commit(batch).await.unwrap();
        }
        Self { store, clock, payouts, tasks: 0 }
    }

    fn set(&self, now: Timestamp) {
        *self.clock.0.lock().unwrap() = now;
    }

    async fn event(&self, at: Timestamp, number: u8, kind: &str, what: What) {
        let event = RewardEvent { at, node: node(number), owner: account(number), what };
        let key = event_key(at, &node(number), kind);
        self.store.commit(Batch::new().put(key, Document::encode(&event))).await.unwrap();
    }

    /// Lets a node pass its probation.
    async fn prove(&self, number: u8) {
        let early = (0..50).map(|test| Timestamp::from_millis(day(0).as_millis() + test));
        // It is tested as long as it works.
        for at in early.chain([day(8), day(18), day(28)]) {
            let model = "m".parse().unwrap();
            let what = What::Checked { model, passed: true, weight: 1000 };
            self.event(at, number, "checked", what).await;
        }
    }

    /// Lets twelve members each ask a node once, on a day.
    async fn work(&mut self, on: u64, number: u8, written: u32) {
        for member in 100..112 {
            self.tasks += 1;
            let row = crate::settlement::Settlement {
                task: TaskId::from_bytes([self.tasks; 16]),
                account: account(member),
                key: None,
                model: "m".parse().unwrap(),
                state: TaskState::Finished,
                attempts: vec![Attempt { node: node(number), end: AttemptEnd::Done }],
                usage: Usage { prompt_tokens: 0, completion_tokens: written },
                submitted: day(on),
                first_chunk_ms: None,
                took_ms: 1000 - u64::from(member),
                limit_ms: 60_000,
                sealed: false,
                receipt: None,
                difficulty: None,
            };
            self.store.commit(row.write(Batch::new())).await.unwrap();
        }
    }

    /// Works for a month: node 1 three times as much as node 2, for a pool of 10.000001.
    async fn worked(rail: Arc<dyn Settlement>) -> Self {
        let mut net = Self::new(PayPolicy::default(), rail).await;
        net.prove(1).await;
        net.prove(2).await;
        for on in [10, 20, 30] {
            net.work(on - 1, 1, 100).await;
        }
        net.work(29, 2, 100).await;
        net.payouts.top_up(Money::micros(10_000_001), "gift 1").await.unwrap();
        net.set(day(38));
        net
    }

    async fn export(&self) -> Vec<String> {
        let lines = self.payouts.export(epoch()).await.unwrap();
        let lines: Vec<Line> = lines.try_collect().await.unwrap();
        lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect()
    }

    async fn states(&self) -> Vec<ShareState> {
        let shares = self.payouts.shares(epoch()).await.unwrap();
        shares.into_iter().map(|share| share.state).collect()
    }

    async fn book(&self, book: Book) -> i64 {
        self.payouts.balances().await.unwrap().of(book).as_micros()
    }
}

fn payouts_of(
    store: &Arc<Shaky>,
    clock: &Arc<Calendar>,
    policy: PayPolicy,
    rail: Arc<dyn Settlement>,
) -> Payouts {
    let secret = Secret::from_bytes([7; 32]);
    let (store, clock) = (Arc::clone(store), Arc::clone(clock));
    Payouts::new(store, &secret, policy, rail, clock)
}

/// By evidence, but shares are released whatever their owners have done.
fn releasing() -> PayPolicy {
    PayPolicy::with_rules("evidence", |state| {
        if state.is_some() {
            return rules("evidence", state);
        }
        let policy = EvidencePolicy { release_tasks: 0, ..EvidencePolicy::default() };
        Some(Box::new(EvidenceRules::new(policy)))
    })
}

#[tokio::test]
async fn month_is_shared_by_work_and_its_export_holds() {
    let net = Network::worked(Arc::new(Manual)).await;
    let closed = net.payouts.close(epoch()).await.unwrap();
    assert_eq!((closed.pool.as_micros(), closed.owners), (10_000_001, 2));
    let shares = net.payouts.shares(epoch()).await.unwrap();
    let amounts: Vec<i64> = shares.iter().map(|share| share.amount.as_micros()).collect();
    assert_eq!(amounts.iter().sum::<i64>(), 10_000_001, "to the last millionth");
    assert!(amounts[0] > 2 * amounts[1], "three times the work: {amounts:?}");
    assert_eq!(net.book(Book::Held(account(1))).await, amounts[0]);
    let lines = net.export().await;
    for line in &lines {
        assert!(!line.contains(&account(1).to_string()), "an export names nobody");
        assert!(!line.contains(&account(100).to_string()), "an export names nobody");
    }
    let mut audit = Audit::default();
    lines.iter().try_for_each(|line| audit.line(line)).unwrap();
    let report = audit.finish().unwrap();
    assert_eq!((report.tasks, report.events, report.movements), (48, 106, 1));
    let said: Vec<i64> =
        report.outcome.closing.shares.iter().map(|share| share.amount.as_micros()).collect();
    let (mut said, mut paid) = (said, amounts);
    said.sort_unstable();
    paid.sort_unstable();
    assert_eq!(said, paid);
}

#[tokio::test]
async fn attack_36_crash_at_any_commit_of_a_payout_changes_nothing() {
    for crash in 0..8 {
        for fault in [Fault::Before, Fault::After] {
            let bank = Arc::new(Bank::default());
            let mut net = Network::worked(Arc::<Bank>::clone(&bank)).await;
            let mut faults = vec![Fault::None; 8];
            faults[7 - crash] = fault;
            *net.store.faults.lock().unwrap() = faults;
            for hour in 0..4 {
                net.set(day(if hour == 0 { 38 } else { 60 + hour }));
                // Whatever failed is done again by the next process.
                let rail = Arc::<Bank>::clone(&bank);
                net.payouts = payouts_of(&net.store, &net.clock, releasing(), rail);
                let _ = net.payouts.close(epoch()).await;
                let _ = net.payouts.settle().await;
            }
            net.store.faults.lock().unwrap().clear();
            net.payouts.settle().await.unwrap();
            net.payouts.settle().await.unwrap();
            assert_eq!(net.states().await, [ShareState::Paid; 2], "crash {crash} {fault:?}");
            let paid = bank.paid.lock().unwrap().clone();
            let sum: i64 = paid.iter().map(|payout| payout.amount.as_micros()).sum();
            assert_eq!((paid.len(), sum), (2, 10_000_001), "crash {crash} {fault:?}");
            assert_eq!(net.book(Book::Outside).await, 0, "all that came in was paid out");
            let books = net.payouts.balances().await.unwrap();
            assert_eq!(books.books().count(), 0);
        }
    }
}

#[tokio::test]
async fn two_replicas_that_close_at_once_close_once() {
    let net = Network::worked(Arc::new(Manual)).await;
    let other = payouts_of(&net.store, &net.clock, PayPolicy::default(), Arc::new(Manual));
    let (one, two) = futures::join!(net.payouts.close(epoch()), other.close(epoch()));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(net.payouts.balances().await.unwrap().movements().count(), 2);
}

#[tokio::test]
async fn months_are_closed_in_their_order_when_they_are_over() {
    let net = Network::worked(Arc::new(Manual)).await;
    net.set(day(37));
    let early = net.payouts.close(epoch()).await;
    assert_eq!(early, Err(PayoutError::TooEarly(epoch(), day(38).as_secs())));
    net.set(day(100));
    let december = epoch().next();
    assert_eq!(net.payouts.close(december).await, Err(PayoutError::Order(epoch())));
    let missing = net.payouts.export(epoch()).await.err();
    assert_eq!(missing, Some(PayoutError::NotClosed(epoch())));
    net.payouts.close(epoch()).await.unwrap();
    assert_eq!(net.payouts.close(december).await.unwrap().pool, Money::ZERO);
}

#[tokio::test]
async fn books_that_were_changed_after_the_closing_are_found_out() {
    let mut net = Network::worked(Arc::new(Manual)).await;
    net.payouts.close(epoch()).await.unwrap();
    net.work(15, 2, 1_000_000).await;
    let lines = net.payouts.export(epoch()).await.unwrap();
    let read: Result<Vec<Line>, PayoutError> = lines.try_collect().await;
    assert_eq!(read.err(), Some(PayoutError::Changed(epoch())));
}

#[tokio::test]
async fn share_of_a_liar_goes_back_into_the_pool() {
    let net = Network::worked(Arc::new(Manual)).await;
    net.payouts.close(epoch()).await.unwrap();
    net.event(day(45), 1, "convicted", What::Convicted).await;
    net.set(day(59));
    net.payouts.settle().await.unwrap();
    assert_eq!(net.states().await, [ShareState::Held; 2], "thirty days are not over");
    net.set(day(60));
    net.payouts.settle().await.unwrap();
    // Node 2 has done twelve paid tasks, and fifty are needed.
    assert_eq!(net.states().await, [ShareState::Forfeited, ShareState::Held]);
    let pool = Book::Pool(Epoch::of(day(60)));
    let share = net.payouts.share(epoch(), &account(1)).await.unwrap().unwrap();
    assert_eq!(net.book(pool).await, share.amount.as_micros());
}

#[tokio::test]
async fn person_pays_what_is_owed_once() {
    let policy = PayPolicy::named("seed").unwrap();
    let mut net = Network::new(policy, Arc::new(Manual)).await;
    net.work(3, 1, 10).await;
    net.payouts.top_up(Money::micros(500), "gift").await.unwrap();
    net.set(day(38));
    net.payouts.close(epoch()).await.unwrap();
    let early = net.payouts.mark_paid(epoch(), &account(1), "transfer 7").await;
    assert_eq!(early, Err(PayoutError::NotOwed(ShareState::Held)));
    net.set(day(61));
    net.payouts.settle().await.unwrap();
    let paid = net.payouts.mark_paid(epoch(), &account(1), "transfer 7").await.unwrap();
    assert_eq!((paid.state, paid.reference.as_deref()), (ShareState::Paid, Some("transfer 7")));
    let again = net.payouts.mark_paid(epoch(), &account(1), "transfer 7").await;
    assert_eq!(again.unwrap(), paid);
    let other = net.payouts.mark_paid(epoch(), &account(1), "transfer 8").await;
    assert_eq!(other, Err(PayoutError::NotOwed(ShareState::Paid)));
    let nobody = net.payouts.mark_paid(epoch(), &account(9), "transfer 9").await;
    assert_eq!(nobody, Err(PayoutError::NoShare(epoch())));
    for bad in ["", "a\nb", &"x".repeat(129)] {
        let refused = net.payouts.mark_paid(epoch(), &account(1), bad).await;
        assert_eq!(refused, Err(PayoutError::Reference));
    }
    assert_eq!(net.book(Book::Outside).await, 0);
}

#[tokio::test]
async fn gift_counts_once_and_is_more_than_nothing() {
    let net = Network::new(PayPolicy::default(), Arc::new(Manual)).await;
    let gift = Money::micros(5);
    for _ in 0..2 {
        assert_eq!(net.payouts.top_up(gift, "gift").await, Ok(gift));
    }
    assert_eq!(net.book(Book::Pool(epoch())).await, 5);
    let other = net.payouts.top_up(Money::micros(6), "gift").await;
    assert_eq!(other, Err(PayoutError::Reused));
    assert_eq!(net.payouts.top_up(Money::ZERO, "x").await, Err(PayoutError::Amount));
}

#[tokio::test]
async fn attack_37_clock_that_is_a_month_ahead_closes_no_month_before_it_went_on_for_two_days() {
    let net = Network::worked(Arc::new(Manual)).await;
    let hour = |hour: u64| Timestamp::from_millis(day(0).as_millis() + hour * 3_600_000);
    let closed = async || net.payouts.months().await.unwrap().len();
    let tick = async |at: u64| {
        net.set(hour(at));
        net.payouts.close_due().await;
        closed().await
    };
    // Ten days into the month; then the clock says it is the next but one.
    assert_eq!((tick(240).await, tick(241).await), (0, 0));
    let ahead = 40 * 24;
    for more in 0..48 {
        assert_eq!(tick(ahead + more).await, 0, "{more} hours later");
        let doubted = net.payouts.check_clock().await;
        assert_eq!(doubted, Err(PayoutError::ClockSet { since: hour(ahead).as_secs() }));
    }
    // Somebody sets it right, for which there was time.
    assert_eq!(tick(290).await, 0);
    for more in 1..24 * 38 {
        assert_eq!(tick(290 + more).await == 1, 290 + more >= 38 * 24, "{more}");
    }
    assert_eq!(net.payouts.check_clock().await, Ok(()));
    // Idle for a month, with the coordinator at work: no doubt.
    for more in 0..24 * 31 {
        tick(290 + 24 * 38 + more).await;
    }
    assert_eq!(closed().await, 2);
}

#[tokio::test]
async fn coordinator_that_was_off_for_a_month_closes_it_two_days_later_or_when_it_is_told() {
    let net = Network::worked(Arc::new(Manual)).await;
    net.set(day(10));
    net.payouts.close_due().await;
    net.set(day(50));
    let (now, seen) = (day(50).as_secs(), day(10).as_secs());
    assert_eq!(net.payouts.check_clock().await, Err(PayoutError::Clock { now, seen }));
    net.payouts.close_due().await;
    assert_eq!(net.payouts.months().await.unwrap(), []);
    for at in [day(51), day(52)] {
        net.set(at);
        net.payouts.close_due().await;
    }
    assert_eq!(net.payouts.months().await.unwrap().len(), 1);
}

#[tokio::test]
async fn first_month_is_closed_by_the_rules_that_the_coordinator_runs_with() {
    let net = Network::worked(Arc::new(Manual)).await;
    let seed = || PayPolicy::named("seed").unwrap();
    payouts_of(&net.store, &net.clock, seed(), Arc::new(Manual)).declare().await.unwrap();
    let (chosen, network) = ("evidence".to_owned(), "seed".to_owned());
    let refused = PayoutError::OtherRules { chosen, network };
    assert_eq!(net.payouts.close(epoch()).await, Err(refused));
    let told = payouts_of(&net.store, &net.clock, seed(), Arc::new(Manual));
    assert_eq!(told.close(epoch()).await.unwrap().policy, "seed");
}

#[tokio::test]
async fn convictions_are_read_once_and_none_is_missed() {
    let net = Network::worked(Arc::new(Manual)).await;
    let since = async |at| net.payouts.convicted_since(at).await.unwrap();
    net.event(day(40), 1, "convicted", What::Convicted).await;
    net.set(day(41));
    assert_eq!(since(day(39)).await, [(account(1), day(40))].into());
    assert_eq!(net.store.scanned_from.lock().unwrap().last(), Some(&day(39).as_millis()));
    // Written down late, and from another one's mouth.
    net.event(Timestamp::from_millis(day(41).as_millis() - 1), 2, "convicted", What::Convicted)
        .await;
    net.event(day(43), 1, "convicted", What::Convicted).await;
    net.set(day(44));
    let found = since(day(39)).await;
    let late = Timestamp::from_millis(day(41).as_millis() - 1);
    assert_eq!(found, [(account(1), day(43)), (account(2), late)].into());
    assert_eq!(net.store.scanned_from.lock().unwrap().last(), Some(&day(40).as_millis()));
    // An earlier month must be decided about.
    net.event(day(31), 3, "convicted", What::Convicted).await;
    assert_eq!(since(day(30)).await.len(), 3);
}

#[tokio::test]
async fn kept_and_broken_promises_weigh_and_the_export_holds() {
    let mut net = Network::new(PayPolicy::default(), Arc::new(Manual)).await;
    for number in [1, 2] {
        net.prove(number).await;
        net.work(20, number, 100).await;
        for hour in 0..72 {
            let at = Timestamp::from_millis(day(10).as_millis() + (hour + 1) * 3_600_000 - 1);
            net.event(at, number, "promise", What::Promised { kept: number == 1 }).await;
        }
    }
    net.payouts.top_up(Money::micros(1_000_000), "gift").await.unwrap();
    net.set(day(38));
    net.payouts.close(epoch()).await.unwrap();
    let shares = net.payouts.shares(epoch()).await.unwrap();
    let parts = |number: u8| {
        let share = shares.iter().find(|share| share.owner == account(number)).unwrap();
        (share.weight.parts["promises_thousandths"], share.amount.as_micros())
    };
    // A tenth of the month's 720 hours were kept by one, and all of the other's were broken.
    let ((kept, more), (broken, less)) = (parts(1), parts(2));
    assert_eq!((kept, broken, more + less), (1010, 900, 1_000_000));
    assert!(more > less, "{more} {less}");
    let mut audit = Audit::default();
    let lines = net.export().await;
    lines.iter().try_for_each(|line| audit.line(line)).unwrap();
    let points = audit.finish().unwrap().outcome.points;
    // What was broken brought one of them to the floor before it worked.
    assert_eq!((points[&node(1)], points[&node(2)]), (277, 188));
}
