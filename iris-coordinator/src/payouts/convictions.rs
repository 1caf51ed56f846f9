//! Who was found lying, and when.

use std::collections::HashMap;
use std::time::Duration;

use futures::TryStreamExt;
use iris_core::reward::{RewardEvent, What};
use iris_core::store::Key;
use iris_core::{AccountId, Timestamp};

use super::record::EVENT;
use super::{PayoutError, Payouts};

/// After so long no event is written down any more that happened before.
const LATE: Duration = Duration::from_hours(24);

/// What was read so far. Most events are of other kinds, and there are many: each is read about
/// once, however often shares are decided about.
#[derive(Debug, Default)]
pub(super) struct Convictions {
    /// Events from this moment on were read, up to another.
    read: Option<(Timestamp, Timestamp)>,
    /// When owners were last convicted.
    latest: HashMap<AccountId, Timestamp>,
}

impl Payouts {
    /// Returns the owners of nodes that were convicted since a moment, and when they last were.
    pub(super) async fn convicted_since(
        &self,
        since: Timestamp,
    ) -> Result<HashMap<AccountId, Timestamp>, PayoutError> {
        let now = self.now();
        let mut known = self.convictions.lock().await;
        let (from, start) = match known.read {
            Some((from, until)) if from <= since => {
                let late = u64::try_from(LATE.as_millis()).unwrap_or(u64::MAX);
                let start = until.min(now).as_millis().saturating_sub(late);
                (from, from.max(Timestamp::from_millis(start)))
            }
            _ => (since, since),
        };
        let start = Key::new(EVENT, format!("{:013}", start.as_millis()));
        let start = start.expect("a number is a key segment");
        let mut events = self.store.scan(start..Key::all(EVENT).end);
        let mut latest = known.latest.clone();
        while let Some(record) = events.try_next().await? {
            let event: RewardEvent = record.value.decode()?;
            if matches!(event.what, What::Convicted) {
                let last = latest.entry(event.owner).or_insert(event.at);
                *last = event.at.max(*last);
            }
        }
        known.latest.clone_from(&latest);
        known.read = Some((from, now));
        latest.retain(|_, last| *last >= since);
        Ok(latest)
    }
}
