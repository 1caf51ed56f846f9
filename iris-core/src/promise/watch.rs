use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Hour, Promise};
use crate::id::NodeId;
use crate::time::Timestamp;

/// How long a node may be away within an hour that it keeps: connections break, and machines are
/// restarted.
const TOLERANCE: Duration = Duration::from_mins(5);
/// How long the watch may look away.
const GAP: Duration = Duration::from_mins(2);

/// Whether a node kept its promise for an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The node.
    pub node: NodeId,
    /// Which hour.
    pub hour: Hour,
    /// Whether it was there, all but five minutes of it.
    pub kept: bool,
}

/// Watches who is there.
///
/// Call [`look`](Self::look) at least every minute, and when an hour is over.
#[derive(Debug)]
pub struct Watch {
    hour: Hour,
    /// Whether the hour was watched from its beginning, without a gap.
    whole: bool,
    looked: (Instant, Timestamp),
    /// The last hour that was judged; a calendar that is set back repeats none.
    judged: Option<Hour>,
    /// How long nodes were away that have promised the hour.
    away: BTreeMap<NodeId, Duration>,
}

impl Watch {
    /// Begins a watch.
    pub const fn new(now: Instant, calendar: Timestamp) -> Self {
        let hour = Hour::of(calendar);
        let whole = hour.start().as_millis() == calendar.as_millis();
        let looked = (now, calendar);
        Self { hour, whole, looked, judged: None, away: BTreeMap::new() }
    }

    /// Looks which of the nodes that have promised something are there: the time since the last
    /// look counts as they are found now. When an hour is over, returns who kept it.
    ///
    /// Nodes of two owners who are all away, while nobody else is there either, say nothing of
    /// themselves: it is the coordinator that is cut off.
    pub fn look<'a>(
        &mut self,
        now: Instant,
        calendar: Timestamp,
        promises: impl Iterator<Item = (&'a NodeId, &'a Promise)> + Clone,
        is_there: impl Fn(&NodeId) -> bool,
        anybody: bool,
    ) -> Vec<Verdict> {
        let (last, dated) = std::mem::replace(&mut self.looked, (now, calendar));
        let passed = now.saturating_duration_since(last);
        let by_calendar = calendar.saturating_since(dated);
        // A machine that slept, or whose calendar was set, has not watched.
        self.whole &= passed <= GAP && passed.abs_diff(by_calendar) <= GAP && calendar >= dated;
        let hour = self.hour;
        let due = promises.filter(|(_, promise)| promise.holds_in(hour));
        if !anybody {
            let mut owners = due.clone().map(|(_, promise)| promise.owner);
            let first = owners.next();
            self.whole &= owners.all(|owner| Some(owner) == first);
        }
        for (node, _) in due.clone().filter(|(node, _)| !is_there(node)) {
            *self.away.entry(*node).or_default() += passed;
        }
        if Hour::of(calendar) == hour {
            return Vec::new();
        }
        let away = std::mem::take(&mut self.away);
        let verdict = |(node, _): (&NodeId, _)| {
            let kept = away.get(node).is_none_or(|away| *away <= TOLERANCE);
            Verdict { node: *node, hour, kept }
        };
        let judges = self.whole && self.judged.is_none_or(|judged| judged < hour);
        let verdicts = if judges { due.map(verdict).collect() } else { Vec::new() };
        self.judged = if judges { Some(hour) } else { self.judged };
        self.hour = Hour::of(calendar);
        let late = calendar.saturating_since(self.hour.start());
        self.whole = passed <= GAP && late <= GAP && self.hour > hour;
        verdicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::AccountId;

    const MINUTE: Duration = Duration::from_mins(1);

    fn node(number: u8) -> NodeId {
        char::from(b'a' + number).to_string().repeat(26).parse().unwrap()
    }

    /// Lives through hours of nodes that have promised them all.
    struct Story {
        now: Instant,
        calendar: Timestamp,
        watch: Watch,
        promises: BTreeMap<NodeId, Promise>,
        there: Vec<NodeId>,
        verdicts: Vec<Verdict>,
    }

    impl Story {
        /// Begins at the beginning of hour 100, with a node for each of `owners`.
        fn begin(owners: &[u8]) -> Self {
            let (now, calendar) = (Instant::now(), Hour(100).start());
            let promise = |(number, owner): (usize, &u8)| {
                let mut promise = Promise::new(AccountId::from_bytes([*owner; 16]));
                promise.declare(Hour(0).start(), Some(&"always".parse().unwrap()));
                (node(u8::try_from(number).unwrap()), promise)
            };
            let promises: BTreeMap<_, _> = owners.iter().enumerate().map(promise).collect();
            let there = promises.keys().copied().collect();
            let watch = Watch::new(now, calendar);
            Self { now, calendar, watch, promises, there, verdicts: Vec::new() }
        }

        fn pass(&mut self, time: Duration, by_calendar: Duration) {
            self.now += time;
            self.calendar = self.calendar.saturating_add(by_calendar);
            let there = |node: &NodeId| self.there.contains(node);
            let (promises, anybody) = (self.promises.iter(), !self.there.is_empty());
            let found = self.watch.look(self.now, self.calendar, promises, there, anybody);
            self.verdicts.extend(found);
        }

        fn minutes(&mut self, count: u32) {
            (0..count).for_each(|_| self.pass(MINUTE, MINUTE));
        }

        fn away(&mut self, number: u8, minutes: u32) {
            self.there.retain(|there| *there != node(number));
            self.minutes(minutes);
            self.there.push(node(number));
        }

        /// Returns the hours that were judged of a node, and whether they were kept.
        fn judged(&self, number: u8) -> Vec<(u64, bool)> {
            let own = self.verdicts.iter().filter(|verdict| verdict.node == node(number));
            own.map(|verdict| (verdict.hour.0, verdict.kept)).collect()
        }
    }

    #[test]
    fn five_minutes_away_are_kept_and_six_are_broken() {
        let mut story = Story::begin(&[1, 2]);
        story.minutes(10);
        story.away(0, 5);
        story.minutes(45);
        story.minutes(10);
        story.away(0, 3);
        story.minutes(10);
        story.away(0, 3);
        story.minutes(34);
        assert_eq!(story.judged(0), [(100, true), (101, false)]);
        assert_eq!(story.judged(1), [(100, true), (101, true)]);
    }

    #[test]
    fn an_hour_that_was_not_watched_whole_is_judged_for_nobody() {
        let mut story = Story::begin(&[1, 2]);
        story.minutes(30);
        story.pass(MINUTE * 10, MINUTE * 10);
        story.away(0, 20);
        assert_eq!(story.verdicts, []);
        story.minutes(60);
        assert_eq!(story.judged(0), [(101, true)]);
        // It slept from hour 102 into hour 104, and watched 105 again.
        story.minutes(10);
        story.pass(MINUTE, MINUTE * 121);
        story.minutes(50);
        story.minutes(60);
        assert_eq!(story.judged(1), [(101, true), (105, true)]);
    }

    #[test]
    fn a_watch_that_begins_within_an_hour_judges_the_next() {
        let mut story = Story::begin(&[1]);
        let calendar = story.calendar.saturating_add(MINUTE);
        story.watch = Watch::new(story.now, calendar);
        story.calendar = calendar;
        story.away(0, 59);
        story.minutes(60);
        assert_eq!(story.judged(0), [(101, true)]);
    }

    #[test]
    fn a_calendar_that_is_set_back_judges_no_hour_twice() {
        let mut story = Story::begin(&[1]);
        story.minutes(70);
        story.calendar = Timestamp::from_millis(story.calendar.as_millis() - 7_200_000);
        story.minutes(180);
        let hours: Vec<_> = story.judged(0).iter().map(|(hour, _)| *hour).collect();
        assert_eq!(hours, [100, 101]);
    }

    #[test]
    fn where_everybody_is_away_the_coordinator_is_cut_off() {
        let mut story = Story::begin(&[1, 2]);
        story.there.clear();
        story.minutes(60);
        assert_eq!(story.verdicts, []);
        let mut one = Story::begin(&[1, 1]);
        one.there.clear();
        one.minutes(60);
        assert_eq!((one.judged(0), one.judged(1)), (vec![(100, false)], vec![(100, false)]));
    }

    #[test]
    fn a_node_is_judged_for_what_it_promised_alone() {
        let mut story = Story::begin(&[1, 2]);
        let promise = story.promises.get_mut(&node(0)).unwrap();
        *promise = Promise::new(promise.owner);
        let morning = "04:00-05:00".parse().unwrap();
        promise.declare(Hour(0).start(), Some(&morning));
        story.there.retain(|there| *there != node(0));
        story.minutes(24 * 60);
        // Hour 100 is the fifth of its day.
        assert_eq!(story.judged(0), [(100, false)]);
        assert_eq!(story.judged(1).len(), 24);
    }
}
