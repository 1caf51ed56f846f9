use std::time::Duration;

use super::Faults;
use super::TROUBLE;
use super::draw::Draw;
use crate::simulation::COORDINATOR;
use crate::simulation::world::Simulation;

/// Something that goes wrong for a while.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) at: Duration,
    pub(super) lasts: Duration,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// The coordinator crashes.
    Crash,
    /// The coordinator is stopped in good order.
    Stop,
    CrashNode(String),
    Partition(String),
    Hold(String),
    Latency(String, Duration),
    Loss(String, f64),
    SlowDisk(Duration),
    FullDisk,
    MuteDisk,
    Skew(String, i64),
}

/// A fault that begins or ends.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) at: Duration,
    pub(super) deed: Deed,
}

#[derive(Clone, Debug)]
pub(super) enum Deed {
    Begin(Kind),
    End(Kind),
}

impl Kind {
    /// Returns whether the fault lies in the network of `host`.
    pub(super) fn touches(&self, host: &str) -> bool {
        match self {
            Self::Partition(name)
            | Self::Hold(name)
            | Self::Latency(name, _)
            | Self::Loss(name, _) => name == host,
            _ => false,
        }
    }

    /// Returns whether the fault keeps records from being written.
    pub(super) const fn strikes_disk(&self) -> bool {
        matches!(self, Self::SlowDisk(_) | Self::FullDisk | Self::MuteDisk)
    }
}

impl Deed {
    pub(super) fn happen(self, net: &mut Simulation, faults: &mut Faults) {
        match self {
            Self::Begin(kind) => begin(&kind, net, faults),
            Self::End(kind) => {
                let ran = net.is_running(COORDINATOR);
                end(&kind, net);
                if !ran && net.is_running(COORDINATOR) {
                    faults.restarts.push(net.elapsed());
                }
            }
        }
    }
}

/// Returns when what begins and ends, in order.
pub(super) fn steps(faults: &[Fault]) -> Vec<Step> {
    let mut steps = Vec::new();
    for Fault { at, lasts, kind } in faults {
        let end = (*at + *lasts).min(TROUBLE);
        steps.push(Step { at: *at, deed: Deed::Begin(kind.clone()) });
        steps.push(Step { at: end, deed: Deed::End(kind.clone()) });
    }
    steps.sort_by_key(|step| step.at);
    steps
}

fn begin(kind: &Kind, net: &mut Simulation, faults: &mut Faults) {
    match kind {
        Kind::Crash => {
            faults.crashes.push(net.elapsed());
            net.crash(COORDINATOR);
        }
        Kind::Stop => {
            faults.stops.push(net.elapsed());
            net.stop_coordinator();
        }
        Kind::CrashNode(node) => net.crash(node),
        Kind::Partition(host) => net.partition(host, COORDINATOR),
        Kind::Hold(host) => net.hold(host, COORDINATOR),
        Kind::Latency(host, latency) => net.set_latency(host, COORDINATOR, *latency),
        Kind::Loss(host, share) => net.set_loss(host, COORDINATOR, *share),
        Kind::SlowDisk(delay) => net.disk().set_delay(Duration::ZERO..=*delay),
        Kind::FullDisk => net.disk().set_full(true),
        Kind::MuteDisk => net.disk().set_mute_once_in(3),
        Kind::Skew(host, millis) => net.set_clock_skew(host, *millis),
    }
}

fn end(kind: &Kind, net: &mut Simulation) {
    match kind {
        Kind::Crash => start(net, COORDINATOR),
        // A coordinator that stops is started again in the end, when it has surely stopped.
        Kind::Stop => {
            if !net.is_running(COORDINATOR) {
                start(net, COORDINATOR);
            }
        }
        Kind::CrashNode(node) => start(net, node),
        Kind::Partition(host) | Kind::Hold(host) => net.repair(host, COORDINATOR),
        Kind::Latency(host, _) => {
            net.set_latency(host, COORDINATOR, Duration::from_millis(10));
        }
        Kind::Loss(host, _) => {
            net.set_loss(host, COORDINATOR, 0.0);
            net.repair(host, COORDINATOR);
        }
        Kind::SlowDisk(_) => net.disk().set_delay(Duration::ZERO..=Duration::from_millis(4)),
        Kind::FullDisk => net.disk().set_full(false),
        Kind::MuteDisk => net.disk().set_mute_once_in(0),
        Kind::Skew(host, _) => net.set_clock_skew(host, 0),
    }
}

/// Ends whatever is still wrong.
pub(super) fn mend(net: &mut Simulation, draw: &Draw) {
    // A coordinator that is stopping has time to finish.
    if draw.faults.iter().any(|fault| matches!(fault.kind, Kind::Stop)) {
        net.run_for(Duration::from_secs(20));
    }
    for host in &draw.hosts {
        start(net, host);
    }
    start(net, COORDINATOR);
}

fn start(net: &mut Simulation, host: &str) {
    if !net.is_running(host) {
        net.restart(host);
    }
}
