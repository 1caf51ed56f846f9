//! Silence in the midst of a streamed answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Tells when a stream has been silent for too long.
///
/// The timer is moved only when it fires, so that a busy stream costs no timer per chunk.
pub(super) struct Quiet {
    interval: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Quiet {
    pub(super) fn new(interval: Duration) -> Self {
        let since = Instant::now();
        Self { interval, since, timer: Box::pin(tokio::time::sleep_until(since + interval)) }
    }

    pub(super) fn broken(&mut self) {
        self.since = Instant::now();
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let due = self.since + self.interval;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}
