use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use iris_core::store::{Batch, Key, MemoryStore, Record, Store, StoreError};
use tokio::time::sleep;

use super::dice::Dice;
use super::trace::Trace;

/// The coordinator's disk, and the [`Store`] on it; clones share it.
///
/// A batch is durable some time after it was handed over, and confirmed some time after that. A
/// crash in between loses the first and leaves the second without its confirmation. What is
/// durable survives every crash.
#[derive(Clone, Debug)]
pub struct Disk {
    durable: MemoryStore,
    state: Arc<Mutex<State>>,
    trace: Trace,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    delay: RangeInclusive<Duration>,
    full: bool,
    mute_once_in: u64,
}

/// What will happen to one batch.
struct Fate {
    written_after: Duration,
    confirmed_after: Duration,
    mute: bool,
}

impl Disk {
    pub(super) fn new(dice: Dice, trace: Trace) -> Self {
        let delay = Duration::from_millis(1)..=Duration::from_millis(4);
        let state = State { dice, delay, full: false, mute_once_in: 0 };
        Self { durable: MemoryStore::new(), state: Arc::new(Mutex::new(state)), trace }
    }

    /// Sets how long a commit takes until it is durable, and as long again until it is confirmed.
    /// Default: 1 to 4 ms.
    pub fn set_delay(&self, delay: RangeInclusive<Duration>) {
        self.state().delay = delay;
    }

    /// Sets whether the disk is full: it takes nothing more, and says so.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Reports one durable commit in `times` as failed, as a server does whose connection breaks
    /// before the confirmation. Default: 0, none.
    pub fn set_mute_once_in(&self, times: u64) {
        self.state().mute_once_in = times;
    }

    /// Returns what survives a crash now.
    pub fn durable(&self) -> MemoryStore {
        self.durable.clone()
    }

    fn fate(&self) -> Fate {
        let mut state = self.state();
        let State { dice, delay, mute_once_in, .. } = &mut *state;
        Fate {
            written_after: dice.time(delay),
            confirmed_after: dice.time(delay),
            mute: dice.once_in(*mute_once_in),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Disk {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let Fate { written_after, confirmed_after, mute } = self.fate();
            sleep(written_after).await;
            if self.state().full {
                return Err(StoreError::Unavailable("the disk is full".to_owned()));
            }
            let rows = batch.writes.len();
            if let Err(error) = self.durable.commit(batch).await {
                self.trace.note("disk", "a batch was refused");
                return Err(error);
            }
            self.trace.note("disk", format_args!("{rows} rows written"));
            sleep(confirmed_after).await;
            if mute {
                return Err(StoreError::Unavailable("the confirmation was lost".to_owned()));
            }
            Ok(())
        }
        .boxed()
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.durable.get(key)
    }

    fn scan(&self, range: Range<Key>) -> BoxStream<'_, Result<Record, StoreError>> {
        self.durable.scan(range)
    }
}
