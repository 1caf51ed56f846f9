//! What the owner of the running node wants: limits from the settings, and commands.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iris_core::id::CallerTag;
use iris_core::terms::Rest;
use iris_node::agent::Conduct;
use iris_node::limits::{Limits, Strain};
use iris_node::probe::{Gauges, Probe, Readings};
use iris_node::slots::Slots;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::callers::Callers;
use crate::moment::now;
use crate::reload::Reload;
use crate::spending::Spending;

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
    /// Why the machine, or its line, is used too much.
    strain: Option<Rest>,
    /// Whose tasks are refused.
    blocked: Arc<BTreeSet<CallerTag>>,
}

impl Owner {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let conduct = watch::Sender::new(limits.conduct(now(), false, None));
        let wishes =
            Mutex::new(Wishes { limits, paused: false, strain: None, blocked: Arc::default() });
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

    /// Returns the limits in force.
    pub(crate) fn limits(&self) -> Limits {
        self.wishes().limits.clone()
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

    /// Keeps to the limits as time passes and the machine is used, and to the settings as their
    /// file changes. Of the `places` for work some are taken.
    pub(crate) async fn look_after(
        self: Arc<Self>,
        mut reload: Reload,
        places: Slots,
        mut spending: Spending,
        mut callers: Callers,
    ) {
        let (mut gauges, mut strain) = (Gauges::new(Probe::new()), Strain::default());
        loop {
            sleep(LOOK).await;
            if let Some(blocked) = callers.look() {
                self.wishes().blocked = blocked;
            }
            if let Some(limits) = reload.look() {
                self.set_limits(limits);
            }
            let (borders, allowance) = {
                let wishes = self.wishes();
                (wishes.limits.borders, wishes.limits.allowance)
            };
            let is_spent = spending.is_all(now(), &allowance).then_some(Rest::Bandwidth);
            let mut readings = Readings::default();
            if !borders.are_none() {
                (gauges, readings) = read(gauges).await;
            }
            let strained = strain.look(&borders, &readings, places.taken() > 0);
            self.wishes().strain = is_spent.or(strained);
            self.review();
        }
    }

    fn review(&self) {
        let wishes = self.wishes();
        let conduct = wishes.limits.conduct(now(), wishes.paused, wishes.strain);
        let conduct = Conduct { blocked: Arc::clone(&wishes.blocked), ..conduct };
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

/// Reads how the machine is doing beside what the node does, since a card's tool takes its time.
async fn read(mut gauges: Gauges) -> (Gauges, Readings) {
    let reading = tokio::task::spawn_blocking(move || {
        let readings = gauges.read();
        (gauges, readings)
    });
    reading.await.unwrap_or_else(|_| (Gauges::new(Probe::new()), Readings::default()))
}
