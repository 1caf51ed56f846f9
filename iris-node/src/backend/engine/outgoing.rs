//! The way from a generating thread to the stream that a task polls.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use iris_core::backend::{BackendError, Chunk};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Chunks that wait for a slow reader before its generation pauses.
const BUFFER: usize = 32;

/// What a stream yields.
pub(super) type Item = Result<Chunk, BackendError>;

/// Nobody waits for the answer any more, or the time for it has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// The generating end.
pub(super) struct Outgoing {
    sender: mpsc::Sender<Item>,
    deadline: Instant,
    place: Cell<Option<OwnedSemaphorePermit>>,
}

/// Makes both ends for an answer that is due at `deadline`.
pub(super) fn channel(deadline: Instant) -> (Outgoing, mpsc::Receiver<Item>) {
    let (sender, receiver) = mpsc::channel(BUFFER);
    (Outgoing { sender, deadline, place: Cell::default() }, receiver)
}

impl Outgoing {
    /// Says whether to go on.
    pub(super) fn check(&self) -> Result<(), Gone> {
        if self.sender.is_closed() || Instant::now() >= self.deadline { Err(Gone) } else { Ok(()) }
    }

    /// Keeps a place among the engine's requests until the last item goes out.
    ///
    /// Whoever reads that item finds the place free: a node that asks again at once is not busy.
    pub(super) fn hold(&self, place: OwnedSemaphorePermit) {
        self.place.set(Some(place));
    }

    /// Hands out one item; waits for a slow reader, though never past the deadline.
    pub(super) fn send(&self, item: Item) -> Result<(), Gone> {
        if matches!(item, Ok(Chunk::Finished(_)) | Err(_)) {
            self.place.take();
        }
        match self.sender.try_send(item) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Gone),
            Err(mpsc::error::TrySendError::Full(item)) => {
                wait(self.sender.send(item), self.deadline).and_then(|sent| sent.map_err(|_| Gone))
            }
        }
    }
}

/// Blocks this thread, which belongs to no runtime, until the future is ready.
fn wait<F: Future>(future: F, deadline: Instant) -> Result<F::Output, Gone> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Ok(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Gone);
        }
        thread::park_timeout(left);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "it is what a channel carries")]
    fn text() -> Item {
        Ok(Chunk::Text("x".into()))
    }

    #[test]
    fn a_slow_reader_stalls_the_writer_and_loses_nothing() {
        let (outgoing, mut receiver) = channel(Instant::now() + Duration::from_mins(1));
        let writer = thread::spawn(move || {
            (0..BUFFER * 3).filter(|_| outgoing.send(text()).is_ok()).count()
        });
        let read = std::iter::from_fn(|| receiver.blocking_recv()).count();
        assert_eq!((read, writer.join().unwrap()), (BUFFER * 3, BUFFER * 3));
    }

    #[test]
    fn a_reader_who_never_reads_holds_a_writer_until_the_deadline() {
        let (outgoing, receiver) = channel(Instant::now() + Duration::from_millis(20));
        let sent = (0..=BUFFER).filter(|_| outgoing.send(text()).is_ok()).count();
        assert_eq!((sent, outgoing.check()), (BUFFER, Err(Gone)));
        drop(receiver);
    }

    #[test]
    fn a_reader_who_leaves_stops_the_writer() {
        let (outgoing, receiver) = channel(Instant::now() + Duration::from_mins(1));
        assert_eq!(outgoing.check(), Ok(()));
        drop(receiver);
        assert_eq!((outgoing.check(), outgoing.send(text())), (Err(Gone), Err(Gone)));
    }
}
