//! Who may stand in line for a model, and when the others should come back.
//!
//! A long line helps nobody: at twice the capacity everybody in it waits for as long as it is,
//! and just as many are served as with a short one. So the line is kept short, and whoever is
//! sent away is told a time that is kept free for them: an appointment.

use std::collections::{BTreeMap, BTreeSet};
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
/// How many of them one account has for one model, so that nobody books it out.
const OF_ONE: usize = 64;
/// Whole of a share that is counted in parts of it.
const WHOLE: u32 = 1 << 16;
/// How slowly a share follows what happens: its error stays below the fifth that is left free.
const SLOWLY: u32 = 64;
/// The most parts that a second is divided into.
const PARTS: usize = 32;
const SECOND: Duration = Duration::from_secs(1);

/// How long tasks in line may expect to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionPolicy {
    /// A task may stand in line if its turn is expected within so many times what a task of its
    /// model usually takes. Default: 2.
    pub patience: u32,
    /// It may also if its turn is expected within this time. Default: 50 ms.
    pub floor: Duration,
    /// The longest that anybody waits, whatever the above allow: half of it for newcomers, all of
    /// it for those who were told to come. Default: 10 s.
    pub longest: Duration,
}

impl Default for AdmissionPolicy {
    fn default() -> Self {
        Self { patience: 2, floor: Duration::from_millis(50), longest: Duration::from_secs(10) }
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
    calendar: Calendar,
    /// The share of appointments that are missed.
    missed: u32,
    /// Appointments that are neither kept nor missed: whose, when and a number.
    open: BTreeSet<(AccountId, u64, u64)>,
    /// The same by time.
    by_time: BTreeSet<(u64, u64, AccountId)>,
}

/// Which times are taken.
///
/// Whoever is sent away for whole seconds comes back in the same part of a second, so each part
/// has a row of appointments of its own, and a share of the capacity. Otherwise those who are
/// sent away one after the other would come back as dense as that.
#[derive(Debug, Default)]
struct Calendar {
    begun: Option<Instant>,
    /// By part, until when its appointments use its share up.
    taken: Vec<Instant>,
}

impl Calendar {
    /// Returns `time` in milliseconds since the first appointment was made.
    fn millis(&self, time: Instant) -> u64 {
        let since = self.begun.map(|begun| time.saturating_duration_since(begun));
        u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the first time after `soonest` and whole seconds from `now` that is not taken, and
    /// takes it: one in `every`, in rows of `parts`. `None` when that is too far away.
    fn take(
        &mut self,
        now: Instant,
        soonest: Duration,
        every: Duration,
        parts: usize,
    ) -> Option<Duration> {
        let begun = *self.begun.get_or_insert(now);
        self.taken.resize(PARTS, now);
        let nanos = now.saturating_duration_since(begun).subsec_nanos() as usize;
        let taken = &mut self.taken[nanos * parts / 1_000_000_000];
        let every = every.saturating_mul(u32::try_from(parts).unwrap_or(u32::MAX));
        // A part's share of one second may be used up at once.
        let until = taken.checked_sub(SECOND.saturating_sub(every)).unwrap_or(now);
        let after = until.saturating_duration_since(now).max(soonest);
        let told = SECOND * u32::try_from(after.as_millis().div_ceil(1000).max(1)).ok()?;
        if told > LONGEST {
            return None;
        }
        *taken = (*taken).max(now + told) + every;
        Some(told)
    }
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
        let line = self.models.entry(model.clone()).or_default();
        line.service = Some(line.service.map_or(held, |service| (service * 7 + held) / 8));
    }

    /// Lets a task into the line for `model`, or says after how many seconds it may come back.
    ///
    /// As long as no task of the model was measured, all may wait.
    pub fn admit(&mut self, model: &ModelName, situation: Situation) -> Result<(), u32> {
        let Situation { now, account, .. } = situation;
        self.lapse(model, now);
        let Some(service) = self.models.get(model).and_then(|line| line.service) else {
            return Ok(());
        };
        let (wait, bound) = (wait(service, situation), self.policy.bound(service));
        if wait <= bound {
            // Whoever comes when there is room needs no appointment, but has kept it.
            self.keep(model, account, now);
            return Ok(());
        }
        // The line is twice as long for those who were told to come, so that they find a place
        // whoever else came in between. It is rarely used up, since they come at a slower pace
        // than they are served.
        if wait <= 2 * bound && self.keep(model, account, now) {
            return Ok(());
        }
        Err(self.appoint(model, situation))
    }

    /// Notes that a task of `account` found a free slot; an appointment that it had is kept.
    pub fn found_place(&mut self, model: &ModelName, account: AccountId, now: Instant) {
        if self.appointments > 0 {
            self.keep(model, account, now);
        }
    }

    /// Says in how many seconds it is worth asking again, without an appointment.
    pub fn estimate(&self, model: &ModelName, situation: Situation) -> u32 {
        let service = self.models.get(model).and_then(|line| line.service);
        let wait = wait(service.unwrap_or(UNMEASURED), situation).min(LONGEST);
        u32::try_from(wait.as_millis().div_ceil(1000).max(1)).unwrap_or(u32::MAX)
    }

    /// Says after how many seconds a task that is sent away may come back; it has an appointment.
    pub fn appoint(&mut self, model: &ModelName, situation: Situation) -> u32 {
        let Situation { now, account, slots, .. } = situation;
        self.lapse(model, now);
        if self.appointments >= APPOINTMENTS {
            let others: Vec<_> = self.models.keys().cloned().collect();
            for model in &others {
                self.lapse(model, now);
            }
        }
        let line = self.models.entry(model.clone()).or_default();
        let own = (account, 0, 0)..=(account, u64::MAX, u64::MAX);
        if let (OF_ONE.., Some((_, last, _))) =
            (line.open.range(own.clone()).count(), line.open.range(own).next_back())
        {
            let left = last.saturating_sub(line.calendar.millis(now)).div_ceil(1000).max(1);
            return u32::try_from(left).unwrap_or(u32::MAX);
        }
        let service = line.service.unwrap_or(UNMEASURED);
        let soonest = wait(service, situation).saturating_sub(self.policy.bound(service));
        // A fifth of the capacity is left to newcomers, so that a crowd that returns is worked off.
        let every = service * 5 / 4 / u32::try_from(slots.max(1)).unwrap_or(u32::MAX);
        // Places of those who will not come are given out again, but only half of them: how many
        // that are is a guess, and newcomers take what is left over.
        let kept = f64::from(WHOLE - line.missed / 2) / f64::from(WHOLE);
        let every = every.mul_f64(kept);
        // Those who come in one part of a second find places in the part of the line kept for them.
        let parts = 2000_u128.div_ceil(self.policy.bound(service).as_millis().max(1));
        let parts = usize::try_from(parts).unwrap_or(PARTS).clamp(1, PARTS);
        let Some(told) = line.calendar.take(now, soonest, every, parts) else {
            return u32::try_from(LONGEST.as_secs()).unwrap_or(u32::MAX);
        };
        if self.appointments < APPOINTMENTS {
            let (time, number) = (line.calendar.millis(now + told), self.next_number);
            line.open.insert((account, time, number));
            line.by_time.insert((time, number, account));
            self.next_number += 1;
            self.appointments += 1;
        }
        u32::try_from(told.as_secs()).unwrap_or(u32::MAX)
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
        let until = line.calendar.millis(now + EARLY);
        let due = line.open.range((account, 0, 0)..=(account, until, u64::MAX)).next().copied();
        let Some((account, time, number)) = due else { return false };
        line.open.remove(&(account, time, number));
        line.by_time.remove(&(time, number, account));
        line.missed -= line.missed / SLOWLY;
        self.appointments -= 1;
        true
    }

    /// Strikes out appointments that were missed.
    fn lapse(&mut self, model: &ModelName, now: Instant) {
        let Some(line) = self.models.get_mut(model) else { return };
        let Some(past) = now.checked_sub(GRACE) else { return };
        let past = line.calendar.millis(past);
        while let Some(&(time, number, account)) = line.by_time.first()
            && time < past
        {
            line.by_time.pop_first();
            line.open.remove(&(account, time, number));
            line.missed += (WHOLE - line.missed) / SLOWLY;
            self.appointments -= 1;
        }
    }
}

impl AdmissionPolicy {
    /// Returns how long the wait of a newcomer may be.
    fn bound(&self, service: Duration) -> Duration {
        service.saturating_mul(self.patience).max(self.floor).min(self.longest / 2)
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
    fn short_tasks_may_wait_for_the_floor_and_long_ones_for_half_the_longest_wait() {
        let (mut admission, now) = (Admission::new(AdmissionPolicy::default()), Instant::now());
        admission.record(&model(), Duration::from_millis(1));
        assert_eq!(admission.admit(&model(), at(now, 1, 499)), Ok(()), "50 ms");
        assert!(admission.admit(&model(), at(now, 1, 501)).is_err());
        let mut admission = Admission::new(AdmissionPolicy::default());
        admission.record(&model(), Duration::from_mins(1));
        assert_eq!(admission.admit(&model(), at(now, 1, 0)), Ok(()), "3 s");
        assert_eq!(admission.admit(&model(), at(now, 1, 1)), Err(4), "9 s, 4 s too many");
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
    fn nobody_books_a_model_out() {
        let (mut admission, now) = (experienced(), Instant::now());
        let told: Vec<u32> =
            (0..1000).map(|_| admission.admit(&model(), at(now, 1, 20)).unwrap_err()).collect();
        assert_eq!((told[63], told[999]), (8, 8), "eight a second, and sixty-four of one account");
        assert_eq!(admission.admit(&model(), at(now, 2, 20)), Err(9));
    }

    #[test]
    fn place_that_was_found_keeps_the_appointment() {
        let (mut admission, now) = (experienced(), Instant::now());
        assert_eq!(admission.admit(&model(), at(now, 1, 20)), Err(1));
        let then = now + Duration::from_secs(1);
        admission.found_place(&model(), account(1), then);
        assert!(admission.admit(&model(), at(then, 1, 20)).is_err(), "it is used up");
    }

    #[test]
    fn appointments_follow_each_other_at_the_pace_of_the_slots() {
        let (mut admission, now) = (experienced(), Instant::now());
        let told: Vec<u32> = (0..40)
            .map(|number| admission.admit(&model(), at(now, number, 20)).unwrap_err())
            .collect();
        // Eight a second can be served.
        assert_eq!((told[0], told[7], told[8], told[39]), (1, 1, 2, 5));
    }

    #[test]
    fn short_tasks_come_back_spread_over_the_second() {
        let (mut admission, now) = (Admission::new(AdmissionPolicy::default()), Instant::now());
        admission.record(&model(), Duration::from_millis(100));
        // Eighty a second can be served, eight in each tenth of a second.
        let mut told = |after| {
            let now = now + Duration::from_millis(after);
            (0..9).map(|_| admission.admit(&model(), at(now, 1, 50)).unwrap_err()).max()
        };
        assert_eq!((told(0), told(100), told(200)), (Some(2), Some(2), Some(2)));
    }

    #[test]
    fn missed_appointments_make_room_for_more() {
        let (mut admission, mut now) = (experienced(), Instant::now());
        for _ in 0..60 {
            for number in 0..20 {
                let _ = admission.admit(&model(), at(now, number, 20));
            }
            now += Duration::from_secs(40);
        }
        let told: Vec<u32> = (0..40)
            .map(|number| admission.admit(&model(), at(now, number, 20)).unwrap_err())
            .collect();
        assert_eq!(told[39], 3, "nobody ever came, so half of the places are given out twice");
    }

    #[test]
    fn appointments_are_bounded_and_forgotten_with_their_model() {
        let (mut admission, now) = (experienced(), Instant::now());
        admission.record(&model(), Duration::from_nanos(1));
        for number in (0..=u8::MAX).cycle().take(2 * APPOINTMENTS) {
            let _ = admission.appoint(&model(), at(now, number, 2000));
        }
        assert!(admission.appointments <= APPOINTMENTS);
        admission.forget(&model());
        assert_eq!(admission.appointments, 0);
        assert_eq!(admission.admit(&model(), at(now, 1, 2000)), Ok(()), "as if it was new");
    }
}
