//! What the owner of the running node wants: limits from the settings, and commands.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use iris_core::Timestamp;
use iris_node::agent::Conduct;
use iris_node::limits::Limits;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::reload::Reload;

/// How often limits and settings are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Turns limits and commands into what the node does.
#[derive(Debug)]
pub(crate) struct Owner {
    wishes: Mutex<Wishes>,
    conduct: watch::Sender<Conduct>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Wishes {
    limits: Limits,
    paused: bool,
}

impl Owner {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let conduct = watch::Sender::new(limits.conduct(now(), false));
        let wishes = Mutex::new(Wishes { limits, paused: false });
        Arc::new(Self { wishes, conduct, stop: CancellationToken::new() })
    }

    /// Returns what the node does, now and later.
    pub(crate) fn conduct(&self) -> watch::Receiver<Conduct> {
        self.conduct.subscribe()
    }

    /// Lets the node take no work, or take it again.
    pub(crate) fn pause(&self, paused: bool) {
        self.wishes().paused = paused;
        self.review();
    }

    /// Replaces the limits.
    fn set_limits(&self, limits: Limits) {
        self.wishes().limits = limits;
        self.review();
    }

    /// Lets the node finish what it has, and end.
    pub(crate) fn drain(&self) {
        self.stop.cancel();
    }

    /// Resolves when the node is to end.
    pub(crate) fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        self.stop.clone().cancelled_owned()
    }

    /// Keeps to the limits as time passes, and to the settings as their file changes.
    pub(crate) async fn look_after(self: Arc<Self>, mut reload: Reload) {
        loop {
            sleep(LOOK).await;
            match reload.look() {
                Some(limits) => self.set_limits(limits),
                None => self.review(),
            }
        }
    }

    fn review(&self) {
        let wishes = self.wishes();
        let conduct = wishes.limits.conduct(now(), wishes.paused);
        self.conduct.send_if_modified(|known| {
            let changed = *known != conduct;
            *known = conduct;
            changed
        });
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
