//! Requests at half of what a node can do, and at twice that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use crate::Failure;
use crate::figures::Times;
use crate::load::{Window, clockwork};
use crate::network::{Network, Plan};
use crate::request::{BUSY, Connection, Question, Reply, Target};

/// Slots of the node.
const SLOTS: u32 = 8;
/// What the mock takes for an answer, in milliseconds.
const SERVICE: u32 = 40;
/// Callers with an account of their own who come back when they are told to.
const PATIENT: u32 = 16;
const RAMP: Duration = Duration::from_secs(1);
/// How long each rate is measured.
const LENGTH: Duration = Duration::from_secs(8);
/// How long patient callers ask anew; the rest of the time they only come back.
const ASKING: Duration = Duration::from_secs(3);
/// How long a patient caller that was served at once waits before it asks again.
const PAUSE: Duration = Duration::from_millis(200);

/// What came of both rates.
#[derive(Debug)]
pub(crate) struct Overload {
    /// Requests a second that the node can answer.
    pub(crate) capacity: u32,
    pub(crate) half: Level,
    pub(crate) twice: Level,
    pub(crate) patience: Patience,
}

/// What came of one rate.
#[derive(Debug, Default)]
pub(crate) struct Level {
    /// Times of requests that were served.
    pub(crate) served: Times,
    /// Times of requests that were refused with 429.
    pub(crate) refused: Times,
    pub(crate) failures: u32,
    pub(crate) fault: Option<String>,
}

/// What became of callers who did as they were told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    pub(crate) refused: u32,
    /// How many of them were served when they came back.
    pub(crate) served: u32,
    /// The longest time that one was sent away for.
    pub(crate) longest: Duration,
}

impl Overload {
    /// Returns how many times longer the slowest hundredth of the served took at twice the
    /// capacity.
    pub(crate) fn ratio(&self) -> f64 {
        self.twice.served.micros(99) / self.half.served.micros(99)
    }
}

pub(crate) async fn measure() -> Result<Overload, Failure> {
    eprintln!("overload ...");
    let plan = Plan {
        pace: 1,
        service: SERVICE,
        slots: SLOTS,
        scripted: false,
        nginx: false,
        callers: PATIENT + 1,
    };
    let network = Network::start(&plan).await?;
    let [crowd, patient @ ..] = network.callers.as_slice() else {
        return Err("a network has callers".into());
    };
    let capacity = SLOTS * 1000 / SERVICE;
    let half = level(crowd, capacity / 2).await?;
    let mut callers = JoinSet::new();
    for target in patient {
        callers.spawn(patience(target.clone(), Instant::now() + RAMP));
    }
    let twice = level(crowd, capacity * 2).await?;
    let mut patience = Patience::default();
    while let Some(caller) = callers.join_next().await {
        let caller = caller??;
        patience.refused += caller.refused;
        patience.served += caller.served;
        patience.longest = patience.longest.max(caller.longest);
    }
    network.stop().await?;
    Ok(Overload { capacity, half, twice, patience })
}

/// Sends so many requests a second, whatever becomes of them.
async fn level(target: &Target, rate: u32) -> Result<Level, Failure> {
    let question = Question::new(BUSY, 1, false);
    let window = Window::after(RAMP, LENGTH);
    let mut due = clockwork(rate, window);
    let idle = Arc::new(Mutex::new(Vec::new()));
    let mut requests = JoinSet::new();
    while let Some(due) = due.recv().await {
        let (idle, target, question) = (Arc::clone(&idle), target.clone(), question.clone());
        requests.spawn(async move {
            let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::open(&target).await?,
            };
            let reply = connection.ask(&question, |_, _| ()).await?;
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            Ok::<_, Failure>((due, due.elapsed(), reply))
        });
    }
    let mut level = Level::default();
    while let Some(request) = requests.join_next().await {
        match request? {
            Ok((due, _, _)) if due < window.begin => {}
            Ok((_, time, Reply::Answer(_))) => level.served.0.push(time),
            Ok((_, time, Reply::Busy(_))) => level.refused.0.push(time),
            Err(failure) => {
                level.failures += 1;
                level.fault.get_or_insert_with(|| failure.to_string());
            }
        }
    }
    Ok(level)
}

/// Asks from `begin` on, and comes back when it is told to.
async fn patience(target: Target, begin: Instant) -> Result<Patience, Failure> {
    let question = Question::new(BUSY, 1, false);
    let mut connection = Connection::open(&target).await?;
    let mut counted = Patience::default();
    sleep_until(begin.into()).await;
    while begin.elapsed() < ASKING {
        match connection.ask(&question, |_, _| ()).await? {
            Reply::Answer(_) => sleep(PAUSE).await,
            Reply::Busy(after) => {
                counted.refused += 1;
                counted.longest = counted.longest.max(after);
                sleep(after).await;
                let reply = connection.ask(&question, |_, _| ()).await?;
                counted.served += u32::from(matches!(reply, Reply::Answer(_)));
            }
        }
    }
    Ok(counted)
}
