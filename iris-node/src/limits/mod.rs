//! What the owner of a machine lets its node do: when it works, on how much, and with which models.

use iris_core::terms::{Callers, Rest, Terms};
use iris_core::{Hours, Timestamp};

use crate::agent::{Conduct, ModelFilter};

mod spent;
mod strain;

pub use spent::{Allowance, Spent};
pub use strain::{Borders, Strain};

/// The limits that an owner has set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// When the node promises to be there. Default: it promises nothing.
    pub promise: Option<Hours>,
    /// When it works. Default: always.
    pub work: Option<Hours>,
    /// How many tasks it works on at once. Default: as many as the agent was built with.
    pub slots: Option<u32>,
    /// Which of its models it offers. Default: all.
    pub models: ModelFilter,
    /// Whose requests it answers. Default: everybody's.
    pub callers: Callers,
    /// Up to where the machine is used. Default: as far as it goes.
    pub borders: Borders,
    /// How much the node may carry. Default: any amount.
    pub allowance: Allowance,
}

impl Limits {
    /// Returns what the node does at `now`, while its owner has `paused` it or not, and its
    /// machine is under `strain` or not.
    pub fn conduct(&self, now: Timestamp, paused: bool, strain: Option<Rest>) -> Conduct {
        let hours = self.promise.clone().map(Box::new);
        let is_off = self.work.as_ref().is_some_and(|work| !work.contains(now));
        let rest = paused.then_some(Rest::Paused);
        let rest = rest.or(is_off.then_some(Rest::OffHours)).or(strain);
        let terms = Terms { hours, callers: self.callers, rest };
        let (slots, models) = (self.slots, self.models.clone());
        Conduct { slots, models, terms, ..Conduct::default() }
    }

    /// Returns each limit that is set in a few words; none where nothing is.
    pub fn words(&self) -> Vec<String> {
        const GB: u64 = 1_000_000_000;
        let Self { promise, work, slots, models, callers, borders, allowance } = self;
        let models = models.to_string();
        [
            promise.as_ref().map(|hours| format!("promises to be there {hours}")),
            work.as_ref().map(|hours| format!("works {hours}")),
            slots.map(|slots| format!("at most {slots} tasks at a time")),
            (!models.is_empty()).then(|| format!("offers {models}")),
            (!callers.are_all()).then(|| format!("answers {}", callers.name())),
            borders.load.map(|load| format!("rests while the machine is {load} % busy")),
            borders.celsius.map(|degrees| format!("rests from {degrees} °C on")),
            borders.watts.map(|watts| format!("rests from {watts} W on")),
            borders.memory_free.map(|bytes| format!("keeps {} GB of memory free", bytes >> 30)),
            allowance.day.map(|bytes| format!("carries {} GB a day", bytes / GB)),
            allowance.month.map(|bytes| format!("carries {} GB a month", bytes / GB)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minute of 1970-01-05, which was a Monday.
    fn monday(hour: u64, minute: u64) -> Timestamp {
        Timestamp::from_millis(((4 * 24 + hour) * 60 + minute) * 60_000)
    }

    fn rest(limits: &Limits, now: Timestamp, paused: bool) -> Option<Rest> {
        limits.conduct(now, paused, None).terms.rest
    }

    #[test]
    fn a_node_works_in_its_hours_to_the_minute() {
        let work = Some("mon 18:00-20:00 UTC+1".parse().unwrap());
        let limits = Limits { work, ..Limits::default() };
        for (hour, minute, expected) in [
            (16, 59, Some(Rest::OffHours)),
            (17, 0, None),
            (18, 59, None),
            (19, 0, Some(Rest::OffHours)),
        ] {
            assert_eq!(rest(&limits, monday(hour, minute), false), expected, "{hour}:{minute}");
        }
        assert_eq!(rest(&limits, monday(17, 0), true), Some(Rest::Paused));
    }

    #[test]
    fn without_limits_a_node_works_until_it_is_paused() {
        let limits = Limits::default();
        assert_eq!(limits.conduct(monday(3, 0), false, None), Conduct::default());
        assert_eq!(rest(&limits, monday(3, 0), true), Some(Rest::Paused));
        let strained = |paused| limits.conduct(monday(3, 0), paused, Some(Rest::Hot)).terms.rest;
        assert_eq!((strained(false), strained(true)), (Some(Rest::Hot), Some(Rest::Paused)));
    }

    #[test]
    fn limits_are_told_in_words() {
        assert!(Limits::default().words().is_empty());
        let limits = Limits {
            slots: Some(3),
            models: ModelFilter::new(["Qwen*", "!*70b*"]),
            callers: Callers::Members,
            borders: Borders { load: Some(50), ..Borders::default() },
            allowance: Allowance { day: Some(5_000_000_000), month: None },
            ..Limits::default()
        };
        let expected = [
            "at most 3 tasks at a time",
            "offers qwen*, !*70b*",
            "answers members",
            "rests while the machine is 50 % busy",
            "carries 5 GB a day",
        ];
        assert_eq!(limits.words(), expected);
    }

    #[test]
    fn what_is_set_reaches_the_node() {
        let limits = Limits {
            promise: Some("sat".parse().unwrap()),
            slots: Some(3),
            models: ModelFilter::new(["qwen*"]),
            callers: Callers::Members,
            ..Limits::default()
        };
        let conduct = limits.conduct(monday(0, 0), false, None);
        assert_eq!(conduct.terms.hours.as_deref(), limits.promise.as_ref());
        assert_eq!(conduct.terms.callers, Callers::Members);
        assert_eq!((conduct.slots, conduct.models), (Some(3), limits.models));
    }
}
