//! Who may stand in line for a model, and when the others should come back.
//!
//! A long line helps nobody: at twice the capacity everybody in it waits for as long as it is,
//! and just as many are served as with a short one. So the line is kept short, and whoever is
//! sent away is told a time that is kept free for them: an appointment.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::id::AccountId;
use crate::model::ModelName;

/// What a task is taken to take before one was measured.
const UNMEASURED: Duration = Duration::from_secs(1);
/// How long after its time an appointment is still kept.
const GRACE: Duration = Duration::from_secs(5);
/// How long before its time a caller may come, whose clock runs fast.
const EARLY: Duration = Duration::from_millis(100);
/// The longest time that anybody is sent away for.
const LONGEST: Duration = Duration::from_mins(10);
/// How many appointments are kept, of all models together.
const APPOINTMENTS: usize = 16_384;
/// Whole of a share that is counted in thousandths.
const WHOLE: u32 = 1000;

/// How long tasks in line may expect to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionPolicy {
    /// A task may stand in line if its turn is expected within so many times what a task of its
    /// model usually takes. Default: 2.
    pub patience: u32,
    /// It may also if its turn is expected within this time. Default: 100 ms.
    pub floor: Duration,
    /// But not if the turn is expected after this time. Default: 10 s.
    pub longest: Duration,
}

impl Default for AdmissionPolicy {
    fn default() -> Self {
        Self {
            patience: 2,
            floor: Duration::from_millis(100),
            longest: Duration::from_secs(10),
        }
    }
}

/// Decides who may stand in line, model by model.
///
/// Whenever a slot was given back, [`record`](Self::record) says how long it was taken. Whenever a
/// task finds no free slot, [`admit`](Self::admit) decides whether it may wait. One who was sent
/// away has an appointment: when it comes back it is let in before newcomers, who find the line
/// full. Appointments are given at the pace at which slots fall free, as far as they are kept.
#[derive(Debug)]
pub struct Admission {
    policy: AdmissionPolicy,
    models: BTreeMap<ModelName, Line>,
    appointments: usize,
    next_number: u64,
}

/// What is known of the tasks of one model.
#[derive(Debug, Default)]
struct Line {
    /// How long a task held its slot of late.
    service: Option<Duration>,
    /// When the next appointment can be given.
    next: Option<Instant>,
    /// How many of a thousand appointments are missed.
    missed: u32,
    open: BTreeMap<(AccountId, u64), Instant>,
    /// The same in the order in which they were made.
    order: VecDeque<(AccountId, u64)>,
}

/// How things stand when a task finds no free slot.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// The time.
    pub now: Instant,
    /// Who asks.
    pub account: AccountId,
    /// How many tasks are served before this one.
    pub ahead: usize,
    /// Slots of the nodes that could do it.
    pub slots: u64,
}

impl Admission {
    /// Makes a rule without any experience.
    pub const fn new(policy: AdmissionPolicy) -> Self {
        Self { policy, models: BTreeMap::new(), appointments: 0, next_number: 0 }
    }

    /// Takes in that a task of `model` held a slot for `held`.
    pub fn record(&mut self, model: &ModelName, held: Duration) {
        if let Some(line) = self.models.get_mut(model) {
            line.record(held);
        } else {
            self.models.entry(model.clone()).or_default().record(held);
        }
    }

    /// Returns how long tasks of `model` held a slot of late, if one did.
    pub fn service(&self, model: &ModelName) -> Option<Duration> {
        self.models.get(model)?.service
    }

    /// Lets a task into the line for `model`, or says after how many seconds it may come back.
    ///
    /// As long as no task of the model was measured, all may wait.
    pub fn admit(&mut self, model: &ModelName, situation: Situation) -> Result<(), u32> {
        let Situation { now, account, .. } = situation;
        let policy = self.policy;
        self.lapse(model, now);
        let Some(line) = self.models.get_mut(model) else { return Ok(()) };
        let Some(service) = line.service else { return Ok(()) };
        let wait = wait(service, situation);
        let bound = policy.bound(service);
        if wait <= bound {
            // Whoever comes when there is room needs no appointment, but has kept it.
            self.keep(model, account, now);
            return Ok(());
        }
        // The line is a little longer for those who were told to come, so that they find a place
        // whoever else came in between.
        let invited = wait <= bound + bound.min(service.max(policy.floor));
        if invited && self.keep(model, account, now) {
            return Ok(());
        }
        Err(self.appoint(model, situation))
    }

    /// Says after how many seconds a task that is sent away may come back; it has an appointment.
    pub fn appoint(&mut self, model: &ModelName, situation: Situation) -> u32 {
        let Situation { now, account, slots, .. } = situation;
        self.lapse(model, now);
        let line = match self.models.get_mut(model) {
            Some(line) => line,
            None => self.models.entry(model.clone()).or_default(),
        };
        let service = line.service.unwrap_or(UNMEASURED);
        let soonest = wait(service, situation).saturating_sub(self.policy.bound(service));
        let due = line.next.map_or(now, |next| next.max(now)).max(now + soonest.min(LONGEST));
        let seconds = (due - now).min(LONGEST).as_millis().div_ceil(1000).max(1);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let told = now + Duration::from_secs(seconds.into());
        // A fifth of the capacity is left to newcomers, so that a crowd that returns is worked off.
        let pace = service * 5 / 4 / u32::try_from(slots.max(1)).unwrap_or(u32::MAX);
        let pace = pace * (WHOLE - line.missed) / WHOLE;
        if due < now + LONGEST && self.appointments < APPOINTMENTS {
            line.next = Some(due + pace);
            line.open.insert((account, self.next_number), told);
            line.order.push_back((account, self.next_number));
            self.next_number += 1;
            self.appointments += 1;
        }
        seconds
    }

    /// Forgets all about `model`, which nobody offers any more.
    pub fn forget(&mut self, model: &ModelName) {
        if let Some(line) = self.models.remove(model) {
            self.appointments -= line.open.len();
        }
    }

    /// Returns whether `account` has an appointment for now, which is thereby kept.
    fn keep(&mut self, model: &ModelName, account: AccountId, now: Instant) -> bool {
        let Some(line) = self.models.get_mut(model) else { return false };
        let mut own = line.open.range((account, 0)..=(account, u64::MAX));
        let due = own.find(|(_, told)| **told <= now + EARLY).map(|(key, _)| *key);
        let Some(key) = due else { return false };
        line.open.remove(&key);
        line.missed -= line.missed / 16;
        self.appointments -= 1;
        true
    }

    /// Strikes out appointments that were missed.
    fn lapse(&mut self, model: &ModelName, now: Instant) {
        let Some(line) = self.models.get_mut(model) else { return };
        while let Some(key) = line.order.front() {
            match line.open.get(key) {
                Some(told) if *told + GRACE > now => break,
                Some(_) => {
                    line.open.remove(key);
                    line.missed += (WHOLE - line.missed) / 16;
                    self.appointments -= 1;
                }
                None => {}
            }
            line.order.pop_front();
        }
    }
}

impl AdmissionPolicy {
    /// Returns how long the wait of the last one in line may be.
    fn bound(&self, service: Duration) -> Duration {
        service.saturating_mul(self.patience).max(self.floor).min(self.longest)
    }
}

impl Line {
    fn record(&mut self, held: Duration) {
        self.service = Some(self.service.map_or(held, |service| (service * 7 + held) / 8));
    }
}

/// Estimates how long a task waits: until so many slots have fallen free as it needs, while all
/// are busy and fall free one after the other.
fn wait(service: Duration, situation: Situation) -> Duration {
    let places = 2 * situation.ahead as u128 + 1;
    let nanos = service.as_nanos() * places / (2 * u128::from(situation.slots.max(1)));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(number: u8) -> AccountId {
        AccountId::from_bytes([number; 16])
    }

    fn model() -> ModelName {
        "m".parse().unwrap()
    }

    /// Ten slots of a second each: a place in line costs 100 ms.
    fn experienced() -> Admission {
        let mut admission = Admission::new(AdmissionPolicy::default());
        admission.record(&model(), Duration::from_secs(1));
        admission
    }

    fn at(now: Instant, number: u8, ahead: usize) -> Situation {
        Situation { now, account: account(number), ahead, slots: 10 }
    }

    #[test]
    fn line_is_as_long_as_two_tasks_take() {
        let (mut admission, now) = (experienced(), Instant::now());
        assert_eq!(admission.admit(&model(), at(now, 1, 0)), Ok(()));
        assert_eq!(admission.admit(&model(), at(now, 1, 19)), Ok(()));
        assert_eq!(admission.admit(&model(), at(now, 1, 20)), Err(1));
    }

    #[test]
    fn short_tasks_may_wait_for_the_floor_and_long_ones_for_the_longest_wait() {
        let (mut admission, now) = (Admission::new(AdmissionPolicy::default()), Instant::now());
        admission.record(&model(), Duration::from_millis(1));
        assert_eq!(admission.admit(&model(), at(now, 1, 999)), Ok(()), "100 ms");
        assert!(admission.admit(&model(), at(now, 1, 1001)).is_err());
        let mut admission = Admission::new(AdmissionPolicy::default());
        admission.record(&model(), Duration::from_secs(60));
        assert_eq!(admission.admit(&model(), at(now, 1, 1)), Ok(()), "9 s");
        assert_eq!(admission.admit(&model(), at(now, 1, 2)), Err(5), "15 s, 5 s too many");
    }

    #[test]
    fn nobody_is_sent_away_from_a_model_that_was_never_measured() {
        let mut admission = Admission::new(AdmissionPolicy::default());
        assert_eq!(admission.admit(&model(), at(Instant::now(), 1, 1000)), Ok(()));
    }

    #[test]
    fn whoever_was_told_to_come_back_finds_a_place_once() {
        let (mut admission, now) = (experienced(), Instant::now());
        assert_eq!(admission.admit(&model(), at(now, 1, 20)), Err(1));
        let then = now + Duration::from_secs(1);
        assert!(admission.admit(&model(), at(then, 2, 20)).is_err(), "others have no appointment");
        assert_eq!(admission.admit(&model(), at(then, 1, 20)), Ok(()));
        assert!(admission.admit(&model(), at(then, 1, 20)).is_err(), "it is used up");
    }

    #[test]
    fn nobody_comes_before_the_time_or_long_after_it() {
        let (mut admission, now) = (experienced(), Instant::now());
        assert_eq!(admission.admit(&model(), at(now, 1, 20)), Err(1));
        let early = now + Duration::from_millis(500);
        assert!(admission.admit(&model(), at(early, 1, 20)).is_err());
        let mut admission = experienced();
        assert_eq!(admission.admit(&model(), at(now, 1, 20)), Err(1));
        let late = now + Duration::from_secs(7);
        assert!(admission.admit(&model(), at(late, 1, 20)).is_err());
    }

    #[test]
    fn appointments_follow_each_other_at_the_pace_of_the_slots() {
        let (mut admission, now) = (experienced(), Instant::now());
        let told: Vec<u32> =
            (0..40).map(|number| admission.admit(&model(), at(now, number, 20)).unwrap_err()).collect();
        // One in 125 ms, eight a second.
        assert_eq!((told[0], told[8], told[16], told[39]), (1, 1, 2, 5));
    }

    #[test]
    fn missed_appointments_make_room_for_more() {
        let (mut admission, mut now) = (experienced(), Instant::now());
        for _ in 0..30 {
            for number in 0..20 {
                let _ = admission.admit(&model(), at(now, number, 20));
            }
            now += Duration::from_secs(40);
        }
        let told: Vec<u32> =
            (0..40).map(|number| admission.admit(&model(), at(now, number, 20)).unwrap_err()).collect();
        assert_eq!(told[39], 1, "nobody ever came, so nobody is expected");
    }

    #[test]
    fn appointments_are_bounded_and_forgotten_with_their_model() {
        let (mut admission, now) = (experienced(), Instant::now());
        admission.record(&model(), Duration::from_nanos(1));
        for _ in 0..2 * APPOINTMENTS {
            let _ = admission.appoint(&model(), at(now, 1, 2000));
        }
        assert!(admission.appointments <= APPOINTMENTS);
        admission.forget(&model());
        assert_eq!(admission.appointments, 0);
        assert_eq!(admission.service(&model()), None);
    }
}
