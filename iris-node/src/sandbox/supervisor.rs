use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{Ended, Sandbox, ServerSpec, health};
use crate::backoff::Backoff;

/// How often a server is asked whether it has loaded its model.
const START_INTERVAL: Duration = Duration::from_millis(250);
/// How often a server is asked whether it still answers.
const INTERVAL: Duration = Duration::from_secs(15);
/// Silences in a row after which a server hangs.
const SILENCES: u32 = 4;
/// How long a server has to end.
const GRACE: Duration = Duration::from_secs(10);
/// How long a server must have answered for its next failure to count as the first.
const GOOD: Duration = Duration::from_mins(1);

/// What a supervised server is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, and does not answer yet.
    Starting,
    /// It answers.
    Ready,
    /// It has failed, and is started again.
    Waiting {
        /// Why it failed, for its owner.
        why: String,
        /// The last lines that it printed, where it has not answered: they are about its start
        /// alone. Later ones may quote what people asked, and are left out.
        printed: Vec<String>,
        /// When it is started again, from now.
        wait: Duration,
    },
    /// It was stopped with the node.
    Stopped,
}

/// Keeps one server running.
#[derive(Debug)]
pub struct Supervisor {
    sandbox: Arc<dyn Sandbox>,
    spec: ServerSpec,
    state: watch::Sender<State>,
}

impl Supervisor {
    /// Prepares to run `spec` in `sandbox`.
    pub fn new(sandbox: Arc<dyn Sandbox>, spec: ServerSpec) -> Self {
        Self { sandbox, spec, state: watch::Sender::new(State::Starting) }
    }

    /// Returns what the server is at, now and from now on.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Starts the server, and again whenever it fails, until `stop` resolves; then ends it.
    ///
    /// The wait before it is started again doubles from a quarter of a second to 30 s, and is as
    /// short again once the server has answered for a minute. Dropping the future ends the server by
    /// force.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut backoff = Backoff::new(u64::from(self.spec.port));
        let mut stop = std::pin::pin!(stop);
        loop {
            let mut good_since = None;
            let Some(Failed { why, printed }) = self.run_once(&mut good_since, stop.as_mut()).await
            else {
                break;
            };
            if good_since.is_some_and(|since: Instant| since.elapsed() >= GOOD) {
                backoff.reset();
            }
            let wait = backoff.wait();
            let port = self.spec.port;
            tracing::warn!(port, why, ?wait, "the model server failed");
            self.state.send_replace(State::Waiting { why, printed, wait });
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.as_mut() => break,
            }
        }
        self.state.send_replace(State::Stopped);
    }

    /// Runs the server once; returns why it failed, or nothing once it was stopped.
    async fn run_once(
        &self,
        good_since: &mut Option<Instant>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Option<Failed> {
        self.state.send_replace(State::Starting);
        let started = tokio::select! {
            started = self.sandbox.start(&self.spec) => started,
            () = stop.as_mut() => return None,
        };
        let mut running = match started {
            Ok(running) => running,
            Err(error) => return Some(Failed::because(error.to_string())),
        };
        let failure = tokio::select! {
            ended = running.ended() => Failure::Ended(ended),
            failure = self.watch(good_since) => failure,
            () = stop => Failure::Stopped,
        };
        match failure {
            Failure::Ended(ended) => return Some(Failed::ended(ended, good_since.is_some())),
            Failure::Silent(why) => {
                running.stop(GRACE).await;
                return Some(Failed::because(why));
            }
            Failure::Stopped => running.stop(GRACE).await,
        };
        None
    }

    /// Resolves when the server does not answer as it should.
    async fn watch(&self, good_since: &mut Option<Instant>) -> Failure {
        let health = &self.spec.health;
        let answers = || health::answers(self.spec.port, &health.path);
        let started = async {
            while !answers().await {
                sleep(START_INTERVAL).await;
            }
        };
        if timeout(health.start_limit, started).await.is_err() {
            let limit = health.start_limit.as_secs();
            return Failure::Silent(format!("it did not answer within {limit} s"));
        }
        *good_since = Some(Instant::now());
        self.state.send_replace(State::Ready);
        if !health.while_busy {
            return std::future::pending().await;
        }
        let mut silences = 0;
        while silences < SILENCES {
            sleep(INTERVAL).await;
            silences = if answers().await { 0 } else { silences + 1 };
        }
        Failure::Silent(format!("it did not answer {SILENCES} times in a row"))
    }
}

/// Why a server is started again.
struct Failed {
    why: String,
    printed: Vec<String>,
}

impl Failed {
    const fn because(why: String) -> Self {
        Self { why, printed: Vec::new() }
    }

    fn ended(ended: Ended, was_ready: bool) -> Self {
        match ended.last_lines.last() {
            Some(line) if !was_ready => {
                Self { why: format!("{ended}, having printed: {line}"), printed: ended.last_lines }
            }
            _ => Self::because(ended.to_string()),
        }
    }
}

enum Failure {
    Ended(Ended),
    Silent(String),
    Stopped,
}
