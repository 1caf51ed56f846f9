//! Sends the same question over and over, and counts what comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::Failure;
use crate::figures::Figures;
use crate::request::{Connection, Question, Reply, Target};

/// Connections of a load with a fixed rate; requests that find none free wait, and their waiting
/// counts.
const OPEN_CONNECTIONS: u32 = 128;
/// Requests of such a load that may wait.
const OPEN_QUEUE: usize = 1024;

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrival {
    /// Each connection sends its next request when the last one is answered.
    Closed { in_flight: u32 },
    /// So many a second, whatever becomes of them. Times count from when a request was due.
    Open { rate: u32 },
}

/// The question and how often it is asked.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) question: Question,
    pub(crate) arrival: Arrival,
    /// Whether the time to the first token matters, rather than that of the whole answer.
    pub(crate) first: bool,
}

/// What is counted: everything that ends from `begin` up to `end`. The times of a load with a
/// fixed rate are those of all requests that were due in it, however late they ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// When the load starts, which gives everything time to warm up.
    pub(crate) start: Instant,
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
}

impl Window {
    /// Makes a window of `length` that opens `ramp` from now.
    pub(crate) fn after(ramp: Duration, length: Duration) -> Self {
        let start = Instant::now();
        Self { start, begin: start + ramp, end: start + ramp + length }
    }

    fn contains(self, moment: Instant) -> bool {
        self.begin <= moment && moment < self.end
    }
}

type Workers = JoinSet<Result<Figures, Failure>>;

impl Load {
    /// Starts the load in tasks that end after the window.
    pub(crate) async fn start(
        &self,
        target: &Target,
        lengths: (Duration, Duration),
    ) -> Result<(Window, Workers), Failure> {
        let connections = match self.arrival {
            Arrival::Closed { in_flight } => in_flight,
            Arrival::Open { .. } => OPEN_CONNECTIONS,
        };
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(Connection::open(target).await?);
        }
        let window = Window::after(lengths.0, lengths.1);
        let due = match self.arrival {
            Arrival::Closed { .. } => None,
            Arrival::Open { rate } => Some(Arc::new(Mutex::new(clockwork(rate, window)))),
        };
        let mut workers = JoinSet::new();
        for (number, connection) in (0..).zip(open) {
            // Spread over the ramp, so that streams do not keep step with each other.
            let start = window.start + (window.begin - window.start) * number / connections;
            let worker = Worker {
                load: self.clone(),
                target: target.clone(),
                connection,
                window,
                counted: Figures::default(),
            };
            match &due {
                None => workers.spawn(worker.closed(start)),
                Some(due) => workers.spawn(worker.open(Arc::clone(due))),
            };
        }
        Ok((window, workers))
    }
}

/// Says when each request is due, from a thread of its own: the timers of the runtime are exact to
/// a millisecond only.
pub(crate) fn clockwork(rate: u32, window: Window) -> mpsc::Receiver<Instant> {
    let (sender, due) = mpsc::channel(OPEN_QUEUE);
    std::thread::spawn(move || {
        let mut next = window.start;
        while next < window.end {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            if sender.blocking_send(next).is_err() {
                return;
            }
            next += Duration::from_secs(1) / rate;
        }
    });
    due
}

/// One connection's share of a load.
struct Worker {
    load: Load,
    target: Target,
    connection: Connection,
    window: Window,
    counted: Figures,
}

impl Worker {
    async fn closed(mut self, start: Instant) -> Result<Figures, Failure> {
        tokio::time::sleep_until(start.into()).await;
        while Instant::now() < self.window.end {
            self.ask(None).await?;
        }
        Ok(self.counted)
    }

    async fn open(mut self, due: Arc<Mutex<mpsc::Receiver<Instant>>>) -> Result<Figures, Failure> {
        loop {
            let next = due.lock().await.recv().await;
            let Some(next) = next else { return Ok(self.counted) };
            self.ask(Some(next)).await?;
        }
    }

    /// Asks once; `due` is when that should have happened, where it was set.
    async fn ask(&mut self, due: Option<Instant>) -> Result<(), Failure> {
        let late = due.map_or(Duration::ZERO, |due| due.elapsed());
        let (window, chunks) = (self.window, &mut self.counted.chunks);
        let arrived = |moment, words| {
            if window.contains(moment) {
                *chunks += words;
            }
        };
        match self.connection.ask(&self.load.question, arrived).await {
            Ok(Reply::Answer(answer)) => {
                let ended = self.window.contains(Instant::now());
                self.counted.answers += u32::from(ended);
                if due.map_or(ended, |due| self.window.contains(due)) {
                    let time = if self.load.first { answer.first } else { answer.whole };
                    self.counted.times.0.push(late + time);
                }
            }
            Ok(Reply::Busy(_)) => {
                self.counted.failures += 1;
                self.counted.fault.get_or_insert_with(|| "429: all slots are taken".to_owned());
            }
            Err(failure) => {
                self.counted.failures += 1;
                self.counted.fault.get_or_insert_with(|| failure.to_string());
                self.connection = Connection::open(&self.target).await?;
            }
        }
        Ok(())
    }
}
