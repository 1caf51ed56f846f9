//! A line for one model, in virtual time, under more load than its slots can take.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use iris_core::admission::{Admission, AdmissionPolicy, Situation};
use iris_core::{AccountId, ModelName};
use proptest::prelude::*;

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
struct World {
    slots: u32,
    /// What a task takes.
    service: Duration,
    /// Half the spread of it, in percent.
    spread: u32,
    /// How much arrives, in percent of what can be served.
    load: u32,
    /// How many of those who are sent away come back, in percent.
    loyal: u32,
    seed: u64,
}

/// What came of a run.
#[derive(Debug, Default)]
struct Outcome {
    arrived: usize,
    served: usize,
    returned: usize,
    turned_away_twice: usize,
    longest_wait: Duration,
    /// How long the slots were busy altogether.
    busy: Duration,
    length: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A slot falls free that was held so long.
    Free(Duration),
    Arrival {
        account: u32,
        again: bool,
    },
}

struct Simulation {
    world: World,
    model: ModelName,
    admission: Admission,
    free: u32,
    line: VecDeque<Instant>,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    random: u64,
    number: u64,
    outcome: Outcome,
}

impl World {
    /// Lets newcomers arrive for as long as 150 tasks take one after the other in every slot.
    fn run(self) -> Outcome {
        let mut simulation = Simulation {
            world: self,
            model: "m".parse().unwrap(),
            admission: Admission::new(AdmissionPolicy::default()),
            free: self.slots,
            line: VecDeque::new(),
            events: BinaryHeap::new(),
            random: self.seed,
            number: 0,
            outcome: Outcome::default(),
        };
        let start = Instant::now();
        let gap = self.service * 100 / (self.slots * self.load);
        let mut last = start;
        for account in 0..150 * self.slots * self.load / 100 {
            // Twice the gap at most, at random.
            last += gap * simulation.below(2000) / 1000;
            simulation.plan(last, Event::Arrival { account, again: false });
        }
        simulation.outcome.length = last - start;
        while let Some(Reverse((now, _, event))) = simulation.events.pop() {
            simulation.handle(now, now <= last, event);
        }
        simulation.outcome
    }
}

impl Simulation {
    fn handle(&mut self, now: Instant, loaded: bool, event: Event) {
        match event {
            Event::Free(held) => {
                self.outcome.busy += if loaded { held } else { Duration::ZERO };
                self.admission.record(&self.model, held);
                self.free += 1;
                if let Some(since) = self.line.pop_front() {
                    self.outcome.longest_wait = self.outcome.longest_wait.max(now - since);
                    self.serve(now);
                }
            }
            Event::Arrival { account, again } => self.arrive(now, account, again),
        }
    }

    fn arrive(&mut self, now: Instant, account: u32, again: bool) {
        self.outcome.arrived += usize::from(!again);
        self.outcome.returned += usize::from(again);
        if self.free > 0 {
            return self.serve(now);
        }
        let situation = Situation {
            now,
            account: AccountId::from_bytes(u128::from(account).to_be_bytes()),
            ahead: self.line.len(),
            slots: self.world.slots.into(),
        };
        match self.admission.admit(&self.model, situation) {
            Ok(()) => self.line.push_back(now),
            Err(_) if again => self.outcome.turned_away_twice += 1,
            // Ten minutes are the most that anybody is told, and no promise.
            Err(600) => {}
            Err(seconds) => {
                if self.below(100) < self.world.loyal {
                    let back = now + Duration::from_secs(seconds.into());
                    self.plan(back, Event::Arrival { account, again: true });
                }
            }
        }
    }

    fn serve(&mut self, now: Instant) {
        self.free -= 1;
        self.outcome.served += 1;
        let percent = 100 - self.world.spread + self.below(2 * self.world.spread + 1);
        let held = self.world.service * percent / 100;
        self.plan(now + held, Event::Free(held));
    }

    fn plan(&mut self, at: Instant, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u32::try_from(self.random >> 33).unwrap() % bound.max(1)
    }
}

fn world() -> impl Strategy<Value = World> {
    let service = (10_u64..3_000).prop_map(Duration::from_millis);
    (1_u32..24, service, 0_u32..50, 150_u32..400, 0_u32..=100, any::<u64>()).prop_map(
        |(slots, service, spread, load, loyal, seed)| World {
            slots,
            service,
            spread,
            load,
            loyal,
            seed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn overload_keeps_waits_short_slots_busy_and_promises(world in world()) {
        let outcome = world.run();
        // A line of two tasks for newcomers, and of two more for those who were told to come; it
        // takes longer where those before it take longer.
        let floor = AdmissionPolicy::default().floor;
        let longest = (world.service * 5 * (100 + world.spread) / 100).max(floor * 4);
        prop_assert!(outcome.longest_wait <= longest, "{outcome:?}");
        // Nobody is sent away while there is nothing to do.
        let busy = outcome.busy.div_duration_f64(outcome.length * world.slots);
        prop_assert!(busy > 0.95, "{busy} of the time, {outcome:?}");
        // Whoever came back as told was served, but for one in a hundred.
        prop_assert!(outcome.turned_away_twice * 100 <= outcome.returned, "{outcome:?}");
    }
}

#[test]
fn few_who_come_back_among_many_who_do_not_are_served() {
    let service = Duration::from_millis(2261);
    let seed = 2_404_746_822_753_202_946;
    let world = World { slots: 3, service, spread: 20, load: 249, loyal: 19, seed };
    let outcome = world.run();
    assert!(outcome.turned_away_twice * 100 <= outcome.returned, "{outcome:?}");
}

#[test]
fn whoever_comes_back_as_told_at_twice_the_capacity_is_served() {
    let service = Duration::from_millis(40);
    for loyal in [1, 10, 50, 100] {
        let seed = loyal.into();
        let world = World { slots: 8, service, spread: 0, load: 200, loyal, seed };
        let outcome = world.run();
        assert!(outcome.returned > 0);
        assert_eq!(outcome.turned_away_twice, 0, "{loyal} % come back: {outcome:?}");
    }
}

#[test]
fn nobody_is_sent_away_below_the_capacity() {
    let service = Duration::from_millis(40);
    let world = World { slots: 8, service, spread: 20, load: 70, loyal: 100, seed: 1 };
    let outcome = world.run();
    assert_eq!((outcome.served, outcome.returned), (outcome.arrived, 0), "{outcome:?}");
}
