//! A year of a network, over the real auditor and the real rules of pay.
//!
//! Time goes in steps of four hours. What happens in a step happens at its beginning, and nodes
//! that were convicted get no more work under the rules of evidence; under the seeds' rules nobody
//! is checked, as there, and everybody works on.

use std::collections::BTreeMap;
use std::time::Duration;

use iris_core::epoch::Epoch;
use iris_core::ledger::Money;
use iris_core::reputation::{Deed, PointsPolicy};
use iris_core::reward::{EvidenceRules, RewardEvent, RewardRules, SeedRules, What, close};
use iris_core::verify::{
    Audit, AuditResult, Auditor, Check, Outcome, Reference, Rules, Scored, Traffic,
};
use iris_core::{AccountId, ModelName, NodeId, Timestamp};

use crate::dice::Dice;
use crate::kinds::Kind;

const STEPS_A_DAY: u64 = 6;
const STEP: Duration = Duration::from_hours(4);
const REQUESTERS: u64 = 200;
/// Days over which machines join.
const JOINING: u64 = 30;
/// What there is to share each month, in millionths.
const POOL: i64 = 1_000_000_000_000;
/// What an owner of a pair and its friend ask of its node in a day, half each, beside others' work.
const PAIR_TASKS: u32 = 24;
/// What a task weighs.
const UNITS: u64 = 300;
/// Of a million tasks, how many are open, greedy and may be compared.
const COMPARABLE: u32 = 300_000;

/// What became of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    pub(crate) kind: Kind,
    /// What it was paid, in millionths.
    pub(crate) evidence: i64,
    pub(crate) seed: i64,
    /// The days from when it could first be found until it was, for each identity.
    pub(crate) found: Vec<f64>,
}

/// By which rules something counts.
#[derive(Clone, Copy)]
enum Book {
    Evidence,
    Seed,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    owner: AccountId,
    machine: usize,
    kind: Kind,
    /// Tokens of a million in which it differs while it is honest.
    mismatch: u32,
    joins: u64,
    is_convicted: bool,
    /// Whether it is another name of a node that was convicted.
    comes_back: bool,
    /// The other owner of a pair.
    friend: Option<AccountId>,
}

pub(crate) struct Network {
    dice: Dice,
    model: ModelName,
    auditor: Auditor,
    evidence: EvidenceRules,
    seed: SeedRules,
    nodes: Vec<Node>,
    by_id: BTreeMap<NodeId, usize>,
    machines: Vec<Fate>,
    step: u64,
    /// Shares of the month before, which a verdict takes away.
    held: BTreeMap<AccountId, i64>,
}

impl Network {
    /// Makes a network with so many thousandths of all machines.
    pub(crate) fn new(seed: u64, thousandths: u32) -> Self {
        let model: ModelName = "m".parse().expect("it is a name");
        let mut auditor = Auditor::new(Rules::default());
        let reference = |number| Reference { node: node_id(number), owner: account(number) };
        auditor.set_references(model.clone(), [1 << 40, 2 << 40].map(reference).to_vec());
        let mut network = Self {
            dice: Dice(seed),
            model,
            auditor,
            evidence: EvidenceRules::default(),
            // A day's hours come as one event.
            seed: SeedRules::new(PointsPolicy { uptime: 24, ..PointsPolicy::SEED }),
            nodes: Vec::new(),
            by_id: BTreeMap::new(),
            machines: Vec::new(),
            step: 0,
            held: BTreeMap::new(),
        };
        for kind in Kind::ALL {
            let machines = (kind.traits().machines * thousandths).div_ceil(1000);
            for _ in 0..machines {
                network.build(kind);
            }
        }
        network
    }

    fn build(&mut self, kind: Kind) {
        let machine = self.machines.len();
        self.machines.push(Fate { kind, evidence: 0, seed: 0, found: Vec::new() });
        let joins = self.dice.below(JOINING) * STEPS_A_DAY;
        for _ in 0..kind.traits().identities {
            self.join(machine, joins);
        }
        let [.., one, other] = self.nodes.as_mut_slice() else { return };
        if one.kind == Kind::Pair && other.kind == Kind::Pair && one.friend.is_none() {
            (one.friend, other.friend) = (Some(other.owner), Some(one.owner));
        }
    }

    fn join(&mut self, machine: usize, joins: u64) {
        let number = u64::try_from(self.nodes.len()).expect("it is small");
        let mismatch = 3_000 + self.dice.below(17_001);
        let node = Node {
            id: node_id(number),
            owner: account(number),
            machine,
            kind: self.machines[machine].kind,
            mismatch: u32::try_from(mismatch).expect("it is small"),
            joins,
            is_convicted: false,
            comes_back: self.step > 0,
            friend: None,
        };
        self.by_id.insert(node.id, self.nodes.len());
        self.nodes.push(node);
    }

    /// Lives through so many months, and returns what became of every machine.
    pub(crate) fn run(mut self, months: u32) -> Vec<Fate> {
        let mut epoch: Epoch = "2026-01".parse().expect("it is a month");
        for _ in 0..months {
            self.evidence.begin(epoch);
            self.seed.begin(epoch);
            while self.now() < epoch.end() {
                self.live();
                self.step += 1;
            }
            self.pay(epoch);
            epoch = epoch.next();
        }
        self.release();
        self.machines
    }

    fn now(&self) -> Timestamp {
        let start: Epoch = "2026-01".parse().expect("it is a month");
        let steps = u32::try_from(self.step).expect("a year has few steps");
        start.start().saturating_add(STEP * steps)
    }

    fn live(&mut self) {
        let now = self.now();
        for place in 0..self.nodes.len() {
            let node = &self.nodes[place];
            if node.joins == self.step {
                self.auditor.handle_offer(node.id, node.owner, &self.model, now);
            }
            if node.joins <= self.step {
                self.work(place, now);
            }
        }
        let mut seed = self.dice.seed();
        while let Some(audit) = self.auditor.poll_audit(now, seed) {
            self.carry_out(&audit, now);
            seed = self.dice.seed();
        }
    }

    /// Gives a node the work of a step.
    fn work(&mut self, place: usize, now: Timestamp) {
        let Node { kind, friend, owner, .. } = self.nodes[place];
        if self.step.is_multiple_of(STEPS_A_DAY) {
            self.tell(place, now, What::Deed { deed: Deed::Uptime }, Book::Seed);
        }
        let requester = account((1 << 32) + self.dice.below(REQUESTERS));
        self.tasks(place, now, requester, kind.traits().tasks);
        if let Some(friend) = friend {
            self.tasks(place, now, owner, PAIR_TASKS / 2);
            self.tasks(place, now, friend, PAIR_TASKS / 2);
        }
    }

    /// Returns how many of a day's tasks fall into a step.
    fn share(&mut self, tasks: u32) -> u32 {
        let chance = u32::try_from(STEPS_A_DAY).expect("it is small");
        let more = self.dice.below(STEPS_A_DAY) < u64::from(tasks % chance);
        tasks / chance + u32::from(more)
    }

    /// Lets a node do a step's part of so many tasks a day; they count as one piece of work.
    fn tasks(&mut self, place: usize, now: Timestamp, requester: AccountId, a_day: u32) {
        let tasks = self.share(a_day);
        for _ in 0..tasks {
            self.tell(place, now, What::Deed { deed: Deed::Completed }, Book::Seed);
            if !self.nodes[place].is_convicted {
                self.check(place, now);
            }
        }
        if tasks > 0 && !self.nodes[place].is_convicted {
            let units = u64::from(tasks) * UNITS;
            let model = self.model.clone();
            self.tell(place, now, What::Work { requester, model, units }, Book::Evidence);
        }
    }

    fn check(&mut self, place: usize, now: Timestamp) {
        let comparable = self.dice.happens(COMPARABLE);
        let traffic = if comparable { Traffic::Comparable } else { Traffic::Private };
        let seed = self.dice.seed();
        let node = &self.nodes[place].id;
        if let Some(audit) = self.auditor.handle_task(node, &self.model, traffic, now, seed) {
            self.carry_out(&audit, now);
        }
    }

    fn tell(&mut self, place: usize, now: Timestamp, what: What, book: Book) {
        let Node { id, owner, comes_back, .. } = self.nodes[place];
        let event = RewardEvent { at: now, node: id, owner, what };
        match book {
            Book::Evidence => self.evidence.apply(&event),
            // Under the seeds' rules nobody has a reason to come back as somebody else.
            Book::Seed if comes_back => {}
            Book::Seed => self.seed.apply(&event),
        }
    }

    fn carry_out(&mut self, audit: &Audit, now: Timestamp) {
        let place = self.by_id[&audit.id.node];
        let result = self.answer(place, audit);
        let outcome = self.auditor.handle_result(&audit.id, &result, now);
        match outcome.expect("every audit has one result") {
            Outcome::Passed => {
                let model = self.model.clone();
                let what = What::Checked { model, passed: true, weight: 1000 };
                self.tell(place, now, what, Book::Evidence);
            }
            Outcome::Convicted(_) => self.convict(place, now),
            _ => {}
        }
    }

    fn answer(&mut self, place: usize, audit: &Audit) -> AuditResult {
        let Node { kind, joins, mismatch, .. } = self.nodes[place];
        let traits = kind.traits();
        let is_duplicate = audit.check == Check::Duplicate;
        let is_spotted = !is_duplicate && self.dice.happens(traits.spots);
        let has_turned = self.step >= joins + traits.turns * STEPS_A_DAY;
        let lies = has_turned && !is_spotted && self.dice.happens(traits.lies);
        let rate = traits.lie.filter(|_| lies).unwrap_or(mismatch);
        let tokens = 128 + self.dice.below(129);
        let tokens: Vec<_> = (0..tokens).map(|_| self.token(rate)).collect();
        // Two honest nodes word an answer alike until the first token in which they differ.
        if is_duplicate && tokens.iter().all(|token| token.is_match()) {
            return AuditResult::Agreed;
        }
        AuditResult::Scored(tokens)
    }

    fn token(&mut self, rate: u32) -> Scored {
        let logprob = if self.dice.happens(rate) { -2_000_000 } else { -300_000 };
        Scored { logprob, best_logprob: -300_000 }
    }

    fn convict(&mut self, place: usize, now: Timestamp) {
        self.tell(place, now, What::Convicted, Book::Evidence);
        let Node { machine, kind, owner, joins, .. } = self.nodes[place];
        self.nodes[place].is_convicted = true;
        self.held.remove(&owner);
        let since = self.step - (joins + kind.traits().turns * STEPS_A_DAY).min(self.step);
        #[expect(clippy::cast_precision_loss, reason = "a year has few steps")]
        let days = since as f64 / STEPS_A_DAY as f64;
        self.machines[machine].found.push(days);
        if kind == Kind::Whitewasher {
            self.join(machine, self.step + 1);
        }
    }

    /// Closes a month: what was held since the last is released, and the new shares are held.
    fn pay(&mut self, epoch: Epoch) {
        self.release();
        let pool = Money::micros(POOL);
        let evidence = close(epoch, pool, self.evidence.weights());
        for share in evidence.shares {
            if self.evidence.may_release(&share.owner) {
                self.held.insert(share.owner, share.amount.as_micros());
            }
        }
        for share in close(epoch, pool, self.seed.weights()).shares {
            let machine = self.machine_of(&share.owner);
            self.machines[machine].seed += share.amount.as_micros();
        }
    }

    fn release(&mut self) {
        for (owner, amount) in std::mem::take(&mut self.held) {
            let machine = self.machine_of(&owner);
            self.machines[machine].evidence += amount;
        }
    }

    fn machine_of(&self, owner: &AccountId) -> usize {
        let number = u64::from_le_bytes(owner.as_bytes()[..8].try_into().expect("it has 16"));
        let place = usize::try_from(number).expect("only nodes earn");
        self.nodes[place].machine
    }
}

fn account(number: u64) -> AccountId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    AccountId::from_bytes(bytes)
}

fn node_id(number: u64) -> NodeId {
    let letters = (0..26).map(|place| {
        b'a' + u8::try_from(number >> (4 * place.min(15)) & 15).expect("it is below 16")
    });
    let letters: Vec<u8> = letters.collect();
    let text = String::from_utf8(letters).expect("letters are ASCII");
    text.parse().expect("26 letters name a node")
}
